"""Find the table that names a folder's audio files if no file is called `metadata`."""

from __future__ import annotations

import contextlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from job.audio import audio_files
from job.config.settings import Settings
from job.core import console, storage
from job.core.errors import BadInput
from job.fetch import guess, jsonl, lists, sheets
from job.fetch.columns import OR_TRANSCRIBE, choose
from job.fetch.listing import Names
from job.fetch.references import REFERENCE_TEXT
from job.fetch.sounds_spelled import PHONEMES
from job.fetch.table import Row, RowError, Table, Unreadable

_ENDINGS = (".csv", ".tsv", ".psv", ".txt", ".list", ".lst", ".jsonl", ".text", ".trans")
#: Number of rows of a file that are read, and the share of them that must name existing audio.
_ROWS, _SHARE = 50, 0.5

#: What to do with a file that is in no form that is read.
_WRITE_IT = "write it as metadata.csv or metadata.jsonl, with audio and text"
#: From how many lines on the same word in each tells that it is none that is read out.
_MANY = 5
#: Files of spreadsheet programs.
_SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers", ".gsheet")
#: What separates cells in a line, and the longest line, in characters, in which names of recordings are looked for.
_BETWEEN, _LONGEST = re.compile(r"[,;|\t\"]"), 2000
#: How much of a file is searched for names of recordings, bytes.
_MOST_BYTES = 1 << 22

#: Words in file names that mark a table as another split than training, or as the whole corpus.
OTHER_PARTS = {"dev", "val", "valid", "validation", "eval", "evaluation", "test", "other", "validated", "invalidated"}
OTHER_PARTS |= {"reported", "unvalidated"}


def only_one(
    root: Path, where: str, names: Names, settings: Settings, split: str, strict: bool = False
) -> Table | None:
    """Return the only table in `root` that names the audio files `names`; None if there is none.

    Among several, the table of the split is used if the others belong to other splits (`train.tsv` next to `dev.tsv`,
    `metadata_train.csv` next to `metadata_eval.csv`). With `strict`, only tables of the split are considered.

    Raises:
        BadInput: there are several.
        PermissionError: this process may not read what may be one.
    """
    found = {path: table for path in _candidates(root) if (table := _opened(path, where, names, settings)) is not None}
    mine = [path for path in found if split in words_of(path.name)]
    if strict:
        found = {path: found[path] for path in mine}
    elif len(mine) == 1 and all(path in mine or OTHER_PARTS & set(words_of(path.name)) for path in found):
        left = [path.name for path in found if path not in mine]
        more = f"; {', '.join(left)} is not (VALIDATION_SPLIT names one to validate on)" if left else ""
        console.say("fetch", f"{mine[0].name} is read{more}")
        return found[mine[0]]
    if len(found) > 1:
        listed = ", ".join(path.name for path in found)
        raise BadInput(f"{where}: several tables name its audio files ({listed}); set TRAIN_JSONL to the right one")
    for path, table in found.items():
        if not strict:
            console.say("fetch", f"{path.name} names the audio files: it is read as their table")
        return table
    return None


def unread(root: Path, audio: list[Path], settings: Settings) -> str | None:
    """Describe a file in `root` that seems to be the table of its recordings and cannot be read; None if there is none.

    That is a spreadsheet, a text file with the names of most recordings in it, or a table with names of others only.
    """
    stems = [_spellings(audio_files.stem(path.name)) for path in audio[:: max(1, len(audio) // _ROWS)]]
    for path in sorted(root.iterdir()):
        ending = path.suffix.lower()
        if not path.is_file() or path.name.startswith((".", "~$")):
            continue
        if ending in _SPREADSHEETS:
            return f"{path.name} is not read: save it as metadata.csv (CSV UTF-8)"
        if ending in (*_ENDINGS, ".json", ".xml", ".yaml", ".yml") and _names_most(path, stems):
            reason = _reason(path, Names(iter(audio)), settings)
            return f"{path.name} names the recordings and is not read: {reason}"
        about = path.name.lower().startswith("readme")
        if ending in _ENDINGS and not about and (other := _names_others(path)) is not None:
            return f"{path.name} names recordings that are not in this folder, such as {other!r}: correct the names"
    return None


def _spellings(stem: str) -> set[bytes]:
    """Return how a table may hold a recording's name: with composed or decomposed accents, in the usual encodings."""
    forms = {unicodedata.normalize(form, stem) for form in ("NFC", "NFD")}
    coded = {form.encode(encoding, "surrogateescape") for form in forms for encoding in ("utf-8", "utf-16-le")}
    with contextlib.suppress(UnicodeEncodeError):
        coded |= {form.encode("cp1252") for form in forms}
    return coded


def _names_most(path: Path, stems: list[set[bytes]]) -> bool:
    try:
        with open(path, "rb") as handle:
            content = handle.read(_MOST_BYTES)
    except OSError as error:
        storage.check(error, path)
        return False
    return len(stems) > 1 and sum(any(s in content for s in stem) for stem in stems) > _SHARE * len(stems)


def _names_others(path: Path) -> str | None:
    """Return a recording that a table names, if most of its rows name one and have words; none of them is here.

    A list of recordings alone is none: of downloads, or of what others were cut from.
    """
    try:
        with open(path, "rb") as handle:
            content = handle.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError as error:
        storage.check(error, path)
        return None
    rows = [line for line in content.splitlines() if line.strip() and len(line) <= _LONGEST]
    named = [found for line in rows if (found := _named_with_words(line)) is not None]
    return named[0] if len(named) > 1 and len(named) > _SHARE * len(rows) else None


def _named_with_words(line: str) -> str | None:
    """Return the first recording that a line names, by its ending, if there are words in another cell."""
    cells = [cell.strip() for cell in _BETWEEN.split(line)]
    if line.lstrip().startswith("{"):  # of JSON, whose keys are words, too
        try:
            cells = [value.strip() for value in json.loads(line).values() if isinstance(value, str)]
        except (ValueError, RecursionError):
            return None
    if any("://" in cell for cell in cells):
        return None
    names = [cell for cell in cells if cell.lower().endswith(audio_files.SOUNDS)]
    words = any(sum(map(str.isalpha, cell)) > 1 for cell in cells if not cell.lower().endswith(audio_files.SOUNDS))
    return names[0] if names and words else None


def _reason(path: Path, names: Names, settings: Settings) -> str:
    """Return why a file cannot be read as a table, or what to do with one that is in no form that is read."""
    if path.suffix.lower() in _ENDINGS:
        try:
            table = (jsonl if path.suffix.lower() == ".jsonl" else sheets).open_table(path, path.name)
            if len(table.columns) > 1:
                choose(table, settings)
        except BadInput as error:
            return str(error).removesuffix(OR_TRANSCRIBE)
        except (RowError, OSError, UnicodeError):
            pass
    rows = [row for row in islice(_spaced(path, path.name).read(), _ROWS) if isinstance(row, Row)]
    there = [row for row in rows if names.spelled_like(_name(row.values["audio"]))]
    what = _instead_of_words(there) if there and len(there) >= _SHARE * len(rows) else None
    return f"{what}; {_WRITE_IT}" if what is not None else _WRITE_IT


def _candidates(root: Path) -> list[Path]:
    found = [
        path
        for path in sorted(root.iterdir())
        if not path.name.startswith(".")
        and path.is_file()
        and path.name.lower() != REFERENCE_TEXT
        and (path.suffix.lower() in _ENDINGS or is_manifest(path))
    ]
    for path in found:
        with open(path, "rb"):  # one that may not be read could be it: the recordings are not transcribed instead
            pass
    return found


def is_manifest(path: Path) -> bool:
    """Whether a `.json` file has an object a line that names a recording as NeMo does, which calls its manifests so."""
    if path.suffix.lower() != ".json":
        return False
    try:
        return any(isinstance(row, Row) and "audio_filepath" in row.values for row in islice(jsonl.read(path), _ROWS))
    except OSError as error:
        storage.check(error, path)
        return False


def words_of(name: str) -> list[str]:
    """Return the words that a name consists of: `metadata_eval.csv` is metadata, eval and csv."""
    return re.split(r"[^a-z0-9]+", name.lower())


def _opened(path: Path, where: str, names: Names, settings: Settings) -> Table | None:
    """Open a file as a table; None if it is not a table that names the audio."""
    shown = f"{where} ({path.name})"
    ways: list[Callable[[Path, str], Table]] = [sheets.open_table, _spaced]
    if path.suffix.lower() in (".jsonl", ".json"):
        ways = [jsonl.open_table]
    elif path.suffix.lower() in lists.ENDINGS:
        ways = [lists.open_table]
    for open_table in ways:
        try:
            table = open_table(path, shown)
            columns = choose(table, settings)
        except (BadInput, RowError, OSError, UnicodeError):
            continue
        rows = [row for row in islice(table.read(), _ROWS) if isinstance(row, Row)]
        values = [columns.value("audio", row.values) for row in rows]
        there = [
            row
            for row, value in zip(rows, values, strict=True)
            if isinstance(value, str) and names.spelled_like(_name(value))
        ]
        if (
            there
            and len(there) >= _SHARE * len(rows)
            and (open_table is not _spaced or _instead_of_words(there) is None)
        ):
            return table
    return None


def _instead_of_words(rows: list[Row]) -> str | None:
    """Return what follows the names in `_spaced` if nobody can have said it: lengths, checksums, one speaker, columns.

    None if it may be said. Texts may repeat, as sentences do that several people read, and be single words or digits.
    """
    texts = [row.values["text"] for row in rows if row.values["text"]]
    if not texts:
        return "nothing follows the names"
    shown = repr(texts[0][:40])
    if sum("\t" in text for text in texts) > _SHARE * len(texts):
        return f"several columns follow the names, as in {shown}"
    if all(len(word) == 1 for text in texts for word in text.split() if guess.is_code(word)):
        codes = 0
    else:
        codes = sum(all(map(guess.is_code, text.split())) for text in texts)
    if codes > _SHARE * len(rows):
        return f"numbers, ids or addresses follow the names, as {shown}"
    held = guess.profile("text", texts, [])
    if held is not None and held.says_nothing == PHONEMES:
        return f"{PHONEMES} follow the names, as {shown}"
    if len(texts) >= _MANY and len(set(texts)) == 1 and len(texts[0].split()) == 1:
        return f"{shown} follows each name, as a speaker does"
    languages = len(texts) >= _MANY and held is not None and held.language
    return f"languages follow the names, as {shown}" if languages else None


def _name(value: str) -> str:
    return value.strip().replace("\\", "/").rsplit("/", 1)[-1]


def _spaced(path: Path, where: str) -> Table:
    """Open a file whose lines are a recording's name, a space or tab, and its text (AISHELL, LibriSpeech)."""

    def read() -> Iterator[Row | Unreadable]:
        with open(path, "rb") as handle:
            for number, line in enumerate(handle, start=1):
                try:
                    cells = line.decode("utf-8-sig").strip().split(None, 1)
                except UnicodeDecodeError:
                    yield Unreadable(number, RowError("not UTF-8", "save the file as UTF-8"))
                    continue
                if cells:
                    name, text = cells[0], cells[1] if len(cells) > 1 else None
                    yield Row(number, {"audio": name, "text": text, "id": audio_files.stem(_name(name))})

    return Table(path.name, where, ["audio", "text", "id"], read, folders=[path.parent])
