"""Detect the dialect of a delimited file: its separator, whether cells are quoted, whether it has a header.

The detection uses rows spread over the whole file, since one row can mislead: the first sentence of a file without a
header may contain commas, or the word `text`. clevercsv also guesses separators, but only from the look of cells; here
it is known that one of the columns must contain names of recordings.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from job.audio import audio_files
from job.core.errors import BadInput
from job.fetch import cell_quotes, guess, lines, records
from job.fetch.table import SAMPLE_ROWS

SEPARATORS = (",", "\t", "|", ";")
_BY_ENDING = {".tsv": "\t", ".csv": ",", ".psv": "|", ".list": "|", ".lst": "|", ".txt": "|"}
#: Number of rows whose files are looked up on disk to detect the separator.
_LOOKED_FOR = 40
#: The separator declaration that Excel writes as a separate first line.
_SEP_LINE = re.compile(r"\"?sep=([,;|\t])\"?")

#: What may stand in a column's name beside letters and digits; no mark that ends or opens a sentence.
_IN_COLUMN_NAMES = " _.-()[]/\\%#&+*:'’"
#: A column's name of letters and digits, a file's name with an ending, and how a sentence ends, with closing quotes.
_USUAL_NAME, _FILE = re.compile(r"[^\W\d][\w .-]*"), re.compile(r"\S+\.\w{2,5}")
_ENDS = re.compile(r"[.!?…。！？؟।։][\"'»”’)]*$")


@dataclass(frozen=True)
class Dialect:
    """The format of a delimited file.

    `width` is the number of columns; `header` their names, None if the first row is data; `first` the line number of
    the header, or 0. `quoted` is as in `records.Reader`. `spaced` says for each separator of a row whether a space
    usually follows it; one that is unusually followed by a space may be inside a sentence. `by_ending` says whether
    most rows have a cell with an audio file's extension. `sound_column` is the position of the recordings, from 0, and
    `shapes` are the patterns of their names, with digits and letters replaced. `skipped` lines precede the table.
    """

    separator: str
    quoted: bool | None
    width: int
    header: tuple[str, ...] | None
    first: int
    spaced: tuple[bool, ...]
    by_ending: bool
    sound_column: int | None
    shapes: frozenset[str]
    folders: tuple[Path, ...]
    skipped: int = 0

    def reader(self) -> records.Reader:
        """Return a reader for its rows."""
        return records.Reader(self.separator, self.quoted, self.is_row)

    def is_row(self, line: str) -> bool:
        """Whether a line (or a part of one) looks like a separate row, quotes aside."""
        pieces = [piece.strip(' "') for piece in line.split(self.separator)]
        if len(pieces) < 2:
            return False
        if self.by_ending:
            return any(guess.is_sound(piece, []) for piece in pieces)
        return len(pieces) >= self.width or any(guess.with_ending(piece, list(self.folders)) for piece in pieces)

    def is_piece(self, line: str, cells: list[str]) -> bool:
        """Whether a line is not a separate row and so may be part of the sentence above or below it."""
        if not cells or (self.by_ending and self.is_row(line)):
            return False
        if len(cells) < self.width:
            return not self.is_row(line)
        cell = cells[self.sound_column].strip() if self.sound_column is not None else ""
        return bool(cell) and (self.by_ending or _shape(cell) not in self.shapes)

    def doubtful(self, line: str) -> bool:
        """Whether a separator in an unquoted row is followed by a space, as in a sentence, but not in other rows."""
        if self.separator == "\t" or ('"' in line and self.quoted is not False):
            return False
        spaces = _spaces(line, self.separator)
        return len(spaces) == len(self.spaced) and any(
            here and not usual for here, usual in zip(spaces, self.spaced, strict=True)
        )


def find(path: Path, where: str, folders: list[Path], known: Iterable[str]) -> Dialect:
    """Detect the dialect of a file. `known` are recognized names of columns.

    Raises:
        BadInput: it is empty, its header is not UTF-8 or has a duplicate column, or commas in sentences cannot be
            distinguished from separators.
    """
    spread, first, quotes, skipped, forced = lines.Spread(SAMPLE_ROWS), None, False, 0, None
    for number, line in lines.read(path):
        if not line.strip():
            continue
        if first is None and (excel := _SEP_LINE.fullmatch(line.strip(" "))):
            skipped, forced = number, excel[1]
            continue
        if first is None:
            first = (number, line)
        else:
            spread.add(line)
        quotes = quotes or '"' in line
    if first is None:
        raise BadInput(f"{where}: the file is empty")
    rows: list[str] = spread.kept
    separator = forced or _separator(path, first[1], rows, folders, set(known))
    quoted = cell_quotes.of(path, separator, skipped) if quotes else False
    header = _header(first[1], rows, separator, folders, set(known))
    if header is not None:
        _check_header(header, where, first[0])
    data = rows if header else [first[1], *rows]
    counts = Counter(len(_loose(line, separator)) for line in data)
    width = len(header) if header else _usual(counts)
    fitting = [line for line in data if len(line.split(separator)) == width]
    spaced = _usually_spaced(fitting, separator, width)
    if header is None:
        _check_width(counts, spaced, width, separator, where)
    sound_column, shapes = _recordings(data, separator, width, folders)
    return Dialect(
        separator=separator,
        quoted=quoted,
        width=width,
        header=header,
        first=first[0] if header else 0,
        spaced=tuple(share >= 0.5 for share in spaced),
        by_ending=_share_with_sound(data, separator, []) >= 0.5,
        sound_column=sound_column,
        shapes=shapes,
        folders=tuple(folders),
        skipped=skipped,
    )


def _separator(path: Path, first: str, rows: list[str], folders: list[Path], known: set[str]) -> str:
    """Choose the separator that gives the most rows an equal number of cells and a recording, and a known header."""
    usual = _BY_ENDING.get(path.suffix.lower(), ",")
    best, most = usual, 0.0
    for separator in (usual, *(s for s in SEPARATORS if s != usual)):
        every = [first, *rows]
        counts = Counter(len(_loose(line, separator)) for line in every)
        width = _usual(counts)
        if width < 2:
            continue
        names = {guess.plain_name(cell) for cell in _loose(first, separator)} & known
        named = len(names) / len(_loose(first, separator))
        score = counts[width] / len(every) + 2 * _share_with_sound(rows or every, separator, folders) + named
        if score > most + 1e-9:
            best, most = separator, score
    return best


def _share_with_sound(rows: list[str], separator: str, folders: list[Path]) -> float:
    """Return the share of rows with a cell that names a recording; a name whose file does not exist counts half."""
    some = rows[:: max(1, len(rows) // _LOOKED_FOR)]
    total = 0.0
    for line in some:
        cells = [cell.strip() for cell in _loose(line, separator)]
        if len(cells) < 2:
            continue
        if any(guess.is_file(cell, folders) or guess.with_ending(cell, folders) for cell in cells):
            total += 1.0
        elif any(guess.is_sound(cell, []) and not any(s in cell for s in SEPARATORS) for cell in cells):
            total += 0.5 if folders else 1.0
    return total / len(some) if some else 0.0


def _recordings(rows: list[str], separator: str, width: int, folders: list[Path]) -> tuple[int | None, frozenset[str]]:
    """Return the column where most rows name a recording, from 0 (None if there is none), and the shapes of names."""
    found: Counter[int] = Counter()
    shapes: set[tuple[int, str]] = set()
    for line in rows[:: max(1, len(rows) // _LOOKED_FOR)]:
        cells = [cell.strip() for cell in _loose(line, separator)]
        for n, cell in enumerate(cells if len(cells) == width else ()):
            if guess.is_sound(cell, folders) or guess.with_ending(cell, folders):
                found[n] += 1
                shapes.add((n, _shape(cell)))
    if not found:
        return None, frozenset()
    at = found.most_common(1)[0][0]
    return at, frozenset(shape for n, shape in shapes if n == at)


def _header(
    first: str, rows: list[str], separator: str, folders: list[Path], known: set[str]
) -> tuple[str, ...] | None:
    """Return the names in the first row if it is a header, None if it is data."""
    names = tuple(cell.strip() for cell in _loose(first, separator))
    if any(guess.is_sound(name, folders) or guess.with_ending(name, folders) for name in names):
        return None
    data = [cells for line in rows if len(cells := _loose(line, separator)) == len(names)]
    for position, name in enumerate(names):
        shapes = Counter(_shape(cells[position]) for cells in data)
        if any(map(str.isdigit, name)) and shapes[_shape(name)] >= 0.5 * max(1, len(data)):
            return None  # an id like those below it, of a recording that does not exist
    short = all(len(name) <= 40 for name in names)
    plain = short and not any(map(guess.reads_as_sentence, names))
    hits = sum(guess.plain_name(name) in known for name in names)
    if hits >= 2 or (hits and plain):
        return names
    # Unknown names are still a header if the cells below them are recordings.
    wordlike = all(map(_names_a_column, names)) and len(set(names)) == len(names)
    below = [any(guess.is_sound(cell.strip(), folders) for cell in cells) for cells in data[:_LOOKED_FOR]]
    if not (short and wordlike and below and sum(below) >= 0.8 * len(below)):
        return None
    if any(map(_FILE.fullmatch, names)) and not (plain and all(map(_USUAL_NAME.fullmatch, names))):
        return None  # a recording of an ending that is not known: `clips/alpha.wave,Yes`
    return names if plain or _unlike_the_rows(names, data[:_LOOKED_FOR]) else None


def _unlike_the_rows(names: tuple[str, ...], rows: list[list[str]]) -> bool:
    """Whether names of three words and more are no sentences: rows below have full stops or numbers where they do not.

    The recordings' column must have endings in the rows: a first row without one is not a recording's then.
    """

    def usual(position: int, test: Callable[[str], object]) -> bool:
        return sum(bool(test(cells[position].strip())) for cells in rows) >= 0.8 * len(rows)

    columns = range(len(names))
    ended = any(usual(n, lambda cell: cell.lower().endswith(audio_files.SOUNDS)) for n in columns)
    return ended and any(
        (usual(n, _ENDS.search) and not _ENDS.search(names[n]))
        or (usual(n, lambda cell: cell[:1].isdigit()) and not any(map(str.isdigit, names[n])))
        for n in columns
    )


def _names_a_column(cell: str) -> bool:
    """Whether a cell may be a column's name: `Jimla da aka faɗa`, `Tsawo (s)`, `#`, accents typed in two."""
    cell = unicodedata.normalize("NFC", cell)
    inside = (c.isalnum() or c in _IN_COLUMN_NAMES or unicodedata.category(c)[0] == "M" for c in cell)
    return cell[:1] in ("#", "№") or (cell[:1].isalpha() and all(inside))


def _check_header(header: tuple[str, ...], where: str, number: int) -> None:
    try:
        "".join(header).encode()
    except UnicodeEncodeError:
        raise BadInput(f"{where}: its first line is not UTF-8; save it as UTF-8") from None
    twice = [name for name, count in Counter(name for name in header if name).items() if count > 1]
    if twice:
        raise BadInput(f"{where} row {number}: two columns are called {twice[0]}; rename one of them")


def _check_width(counts: Counter[int], spaced: list[float], width: int, separator: str, where: str) -> None:
    """Refuse a file without a header whose sentences contain the separator: part of one would be read as a column."""
    name = {"\t": "tab"}.get(separator, separator)
    fix = 'put the sentences in quotes ("…"), or add a first row that names the columns'
    usual, total = counts[width], counts.total()
    if total - usual > 0.2 * total and total >= 3:
        raise BadInput(
            f"{where}: rows have {min(counts)} to {max(counts)} cells separated by {name}, and no row names the "
            f"columns: a {name} inside a sentence cannot be told from one between columns; {fix}"
        )
    if separator != "\t" and min(spaced, default=0) <= 0.2 and max(spaced, default=0) >= 0.5:
        position = next(n for n, share in enumerate(spaced, start=1) if share >= 0.5)
        raise BadInput(
            f"{where}: the {name} between column_{position} and column_{position + 1} has a space behind it and "
            f"others have none, as if it stood inside a sentence; {fix}"
        )


def _loose(line: str, separator: str) -> list[str]:
    """Split a line into cells, for counting; quotes delimit cells if the line parses that way."""
    if '"' in line:
        try:
            return records.parse([line], separator)
        except csv.Error:
            pass
    return line.split(separator)


def _usually_spaced(rows: list[str], separator: str, width: int) -> list[float]:
    """Return, for each separator of a row, the share of rows in which a space follows it."""
    found = [spaces for line in rows if len(spaces := _spaces(line, separator)) == width - 1]
    return [sum(row[n] for row in found) / len(found) for n in range(width - 1)] if found else []


def _spaces(line: str, separator: str) -> list[bool]:
    return [piece[:1] == " " for piece in line.split(separator)[1:]]


def _usual(counts: Counter[int]) -> int:
    """Return the most frequent number of cells; among equally frequent ones, the largest."""
    return max(counts, key=lambda count: (counts[count], count))


def _shape(cell: str) -> str:
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", cell.strip()))
