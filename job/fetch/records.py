"""Parse delimited files so that each line is accounted for: part of a row, rejected with a reason, or blank.

The csv module alone would read to the end of the file after an unclosed quote, and return all of it as one cell.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from job.fetch.table import RowError

#: Maximum number of lines that a quoted cell may span: no sentence has more.
MOST_LINES = 64

#: The advice given in all messages about quotes.
_CLOSE_IT = 'close it, and write "" for a quote inside a quoted cell'


@dataclass(frozen=True)
class Record:
    """The result for lines `number` to `number + lines - 1` of a file: cells, or the reason why they are rejected.

    With neither, it is a blank line. `literal` is the unparsed first line.
    """

    number: int
    lines: int = 1
    cells: list[str] | None = None
    error: RowError | None = None
    literal: str = ""


@dataclass
class Reader:
    """Reader of the rows of a delimited file.

    `quoted`: True if cells may be quoted; False if a quote is an ordinary character; None if the file has both, and
    rows whose words depend on it are rejected. `is_row` returns whether a line is a row by itself, quotes aside: after
    an unclosed quote, reading resumes at the first such line.
    """

    separator: str
    quoted: bool | None
    is_row: Callable[[str], bool]
    _ahead: deque[tuple[int, str]] = field(default_factory=deque)

    def read(self, lines: Iterable[tuple[int, str]]) -> Iterator[Record]:
        """Yield each row, rejected row and blank line of a file, in order."""
        self._ahead.clear()
        source = iter(lines)
        while (got := self._next(source)) is not None:
            number, line = got
            if not line.strip() or not line.strip(self.separator + " \t"):
                yield Record(number, literal=line)
            elif "\0" in line:
                yield Record(number, error=RowError("a NUL byte in the row", "save the file again as UTF-8 text"))
            elif self.quoted is False or '"' not in line:
                yield Record(number, cells=_plain(line, self.separator), literal=line)
            elif self.quoted is None:
                yield from self._either_way(number, line, source)
            else:
                yield from self._quoted(number, line, source)

    def _next(self, source: Iterator[tuple[int, str]]) -> tuple[int, str] | None:
        return self._ahead.popleft() if self._ahead else next(source, None)

    def _either_way(self, number: int, line: str, source: Iterator[tuple[int, str]]) -> Iterator[Record]:
        plain = _plain(line, self.separator)
        try:
            quoted = parse([line], self.separator)
        except csv.Error as error:
            if "unexpected end" in str(error):  # the cell may continue on the next line, or not
                yield from self._unclosed(number, line, source)
                return
            quoted = plain
        if [_unmarked(c) for c in quoted] == [_unmarked(c) for c in plain]:
            yield Record(number, cells=quoted, literal=line)
            return
        detail = "some rows of the file quote their cells and some use the quote as a character; make them all alike"
        yield Record(number, error=RowError("quotes can be read in two ways", detail))

    def _quoted(self, number: int, line: str, source: Iterator[tuple[int, str]]) -> Iterator[Record]:
        taken = [line]

        def more() -> Iterator[str]:
            yield line + "\n"
            while len(taken) < MOST_LINES and (got := self._next(source)) is not None:
                taken.append(got[1])
                yield got[1] + "\n"

        try:
            cells = next(_reader(more(), self.separator))
        except (csv.Error, StopIteration):
            rest = taken[1:]
            self._give_back(number + 1, rest)
            try:
                cells = parse([line], self.separator)
            except csv.Error:
                yield from self._unclosed(number, line, source)
                return
            taken = [line]
        swallowed = len(taken) > 1 and any("\n" in c and self._holds_rows(c) for c in cells)
        if not swallowed:
            yield Record(number, len(taken), cells, literal=line)
            return
        for offset in range(len(taken)):
            detail = (
                f"a quoted cell of row {number} goes on to row {number + len(taken) - 1} over other rows; {_CLOSE_IT}"
            )
            yield Record(number + offset, error=RowError("a quote is not closed", detail))

    def _unclosed(self, number: int, line: str, source: Iterator[tuple[int, str]]) -> Iterator[Record]:
        """Reject a row whose quote does not close, or closes before its cell ends, and the lines it may extend over."""
        yield Record(number, error=RowError("a quote is not closed", f"in row {number}; {_CLOSE_IT}"))
        if self.is_row(line):
            return  # apart from its quote it is complete: the next line is a separate row
        for _ in range(MOST_LINES):
            got = self._next(source)
            if got is None:
                return
            if '"' not in got[1] and self.is_row(got[1]):
                self._ahead.appendleft(got)
                return
            if not got[1].strip():
                yield Record(got[0], literal=got[1])
                continue
            detail = f"it goes on from row {number}, whose quote is not closed; {_CLOSE_IT}"
            yield Record(got[0], error=RowError("part of another row", detail))
            if '"' in got[1]:
                return

    def _holds_rows(self, cell: str) -> bool:
        """Whether any line of a multi-line cell looks like a row or a part of one."""
        return any(self.is_row(part) for part in cell.split("\n"))

    def _give_back(self, number: int, lines: list[str]) -> None:
        self._ahead.extendleft(reversed([(number + offset, text) for offset, text in enumerate(lines)]))


def parse(lines: list[str], separator: str) -> list[str]:
    """Parse the cells of one row, with quotes as delimiters of cells.

    Raises:
        csv.Error: a quote does not close, or closes before its cell ends.
    """
    try:
        return next(_reader(iter(lines), separator), [])
    except csv.Error:
        # A space after a closing quote (`"…" ,`) is dropped, unless the row has a quote that is a character (`""`).
        trimmed = [_without_spaces_after_quotes(line, separator) for line in lines if '""' not in line]
        if len(trimmed) != len(lines) or trimmed == lines:
            raise
        return next(_reader(iter(trimmed), separator), [])


def _reader(lines: Iterator[str], separator: str) -> Iterator[list[str]]:
    csv.field_size_limit(1 << 24)
    cleaned = (line.rstrip("\n").replace("\r", " ") + ("\n" if line.endswith("\n") else "") for line in lines)
    return csv.reader(cleaned, delimiter=separator, strict=True, skipinitialspace=True)


def _without_spaces_after_quotes(line: str, separator: str) -> str:
    parts = line.split(separator)
    return separator.join(part.rstrip(" ") if part.rstrip(" ").endswith('"') else part for part in parts)


def _plain(line: str, separator: str) -> list[str]:
    return line.replace("\r", " ").split(separator)


def _unmarked(cell: str) -> str:
    return " ".join(cell.replace('"', "").split())
