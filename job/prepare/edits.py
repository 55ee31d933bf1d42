"""Apply manual edits to single rows, from WORK_DIR/data/edits.jsonl, which quality.html saves.

Each line is a JSON object that identifies a row by its `id`, or by its `audio` (and `start`, for a part), or by both,
and has `"bad": true` or a new `"text"`. A later line about the same row replaces an earlier one. Edits are applied to
the encoded rows when these are read, so nothing is encoded again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from job.audio.clip import text_mismatch
from job.core import inside
from job.core.errors import BadInput
from job.prepare.leaving_out import with_column
from job.text.letters import letters

if TYPE_CHECKING:
    from job.prepare.manifest_rows import Row

#: Reason of rows that were marked bad.
REASON = "marked_bad"
#: Warning of rows whose text has no letter of any script: how digits and symbols are spoken is unknown.
NO_WORDS = "no_words"


@dataclass(frozen=True, slots=True)
class Edit:
    """One line of the file: which row it is about, and the decision."""

    line: int
    id: str | None
    audio: str | None
    start: float | None
    bad: bool
    text: str | None

    def is_about(self, row: Row) -> bool:
        """Whether this edit is about the row, by all of the given identifiers."""
        if self.id is not None and self.id != row.id:
            return False
        if self.audio is None:
            return True
        same_file = row.audio is not None and self.audio in (str(row.audio), *_names(row.audio))
        return same_file and (self.start is None or (row.start is not None and abs(self.start - row.start) < 1e-3))


class Edits:
    """The edits of a work directory, looked up by row; keeps track of those that match no row (`unused`).

    Raises:
        BadInput: a line is invalid.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._edits: dict[str, list[Edit]] = {}
        self._unused: dict[int, Edit] = {}
        for number, line in enumerate(_lines(path), start=1):
            if line.strip():
                edit = _edit(path, number, line)
                key = edit.id if edit.id is not None else Path(edit.audio or "").name
                self._edits.setdefault(key, []).insert(0, edit)
                self._unused[number] = edit

    def __bool__(self) -> bool:
        return bool(self._edits)

    def find(self, row: Row) -> Edit | None:
        """Return the last edit about a row; None if there is none."""
        names = [row.id, *(_names(row.audio) if row.audio else ())]
        named = [edit for name in names for edit in self._edits.get(name, [])]
        fitting = [edit for edit in named if edit.is_about(row)]
        for edit in fitting:
            self._unused.pop(edit.line, None)
        return max(fitting, key=lambda edit: edit.line, default=None)

    def unused(self) -> str | None:
        """Describe in one line the edits that matched no row; None if there are none."""
        if not self._unused:
            return None
        first = next(iter(self._unused.values()))
        count = f"{len(self._unused)} edits name" if len(self._unused) > 1 else "one edit names"
        return f"{self._path}: {count} no row of the data, the first in line {first.line} ({first.id or first.audio})"


def read_plain(path: Path) -> list[dict[str, Any]]:
    """Return the lines of the file unchanged, for the page to extend."""
    return [json.loads(line) for line in _lines(path) if line.strip()]


def lay_over(table: pa.Table, edits: Mapping[int, Edit]) -> pa.Table:
    """Apply the edits, given by position in the manifest, to a shard."""
    hits = [(row, edits[at]) for row, at in enumerate(table["position"].to_pylist()) if at in edits]
    if not hits:
        return table
    names = ("text", "characters", "letters", "reason", "detail", "warnings")
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in names}
    seconds = table["seconds"].to_pylist()
    for row, edit in hits:
        if edit.text is not None:
            columns["text"][row] = edit.text
            columns["characters"][row] = len(edit.text)
            columns["letters"][row] = letters(edit.text)
            others = [one for one in columns["warnings"][row] if one not in (NO_WORDS, "text_mismatch")]
            columns["warnings"][row] = others + (text_warnings(edit.text, seconds[row]) if seconds[row] else [])
        if edit.bad and columns["reason"][row] is None:
            columns["reason"][row] = REASON
            columns["detail"][row] = (
                f"marked bad in line {edit.line} of data/edits.jsonl; take that line out to keep it"
            )
    for name in names:
        table = with_column(table, name, columns[name])
    return table


def text_warnings(text: str, seconds: float) -> list[str]:
    """Warnings about a text by itself, and about its length against that of the recording."""
    found = [NO_WORDS] if text and not any(c.isalpha() for c in text) else []
    return [*found, "text_mismatch"] if text_mismatch(text, seconds) else found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as UTF-8 text; save it from data/quality.html again") from error


def _edit(path: Path, number: int, line: str) -> Edit:
    """Parse one line.

    Raises:
        BadInput: it is not a JSON object, identifies no row, or contains no decision.
    """
    where = f"{path} line {number}"
    try:
        said = json.loads(line)
    except ValueError:
        raise BadInput(
            f'{where}: no JSON; write {{"id": "17", "bad": true}} or {{"id": "17", "text": "..."}}'
        ) from None
    if not isinstance(said, dict) or not (_is(said, "id", (str, int)) or _is(said, "audio", str)):
        raise BadInput(f"{where}: it names no row; give it the row's id (or its audio) as data/quality.html shows it")
    bad, text, start = said.get("bad", False), said.get("text"), said.get("start")
    if not isinstance(bad, bool) or not (text is None or (isinstance(text, str) and text.strip())):
        raise BadInput(f"{where}: bad must be true or false, and text words in quotation marks")
    if start is not None and (isinstance(start, bool) or not isinstance(start, int | float)):
        raise BadInput(f"{where}: start must be a number of seconds")
    if not bad and text is None:
        raise BadInput(f'{where}: it says nothing of the row; add "bad": true or "text": "..."')
    return Edit(
        number,
        str(said["id"]) if said.get("id") is not None else None,
        said.get("audio"),
        start,
        bad,
        text.strip() if text is not None else None,
    )


def _is(said: dict[str, Any], name: str, kinds: Any) -> bool:
    value = said.get(name)
    return isinstance(value, kinds) and not isinstance(value, bool) and value != ""


def _names(audio: Path) -> list[str]:
    """Names by which a recording may be named without its folder: in a tar also its own there."""
    place = inside.place_of(audio)
    return [audio.name] if place is None else [audio.name, place.name]
