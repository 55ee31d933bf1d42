"""Say which recordings of a folder no row names, and which texts have no recording: a copy may have stopped halfway."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from job.audio import audio_files
from job.fetch import tables
from job.fetch.columns import Columns
from job.fetch.listing import begins_like, key, some
from job.fetch.table import Row, Table, Unreadable

#: Texts that are about the recordings, by the beginning of their names.
_ABOUT = ("readme", "license", "licence", "copying", "changelog", "about", "credits", "notes")
#: Texts of one recording each; tables and times may be of any.
_TEXTS = (".txt", ".lab")
#: Tables of a split.
_TABLES = (".csv", ".tsv", ".psv", ".txt", ".list", ".lst", ".jsonl", ".json")


class Named:
    """The names of recordings that a table's rows have, kept or left out, gathered while they are read."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._unreadable = 0

    def gathered(self, table: Table, columns: Columns) -> Table:
        """Return the table, whose names are gathered as its rows are read."""

        def read() -> Iterator[Row | Unreadable]:
            for row in table.read():
                if isinstance(row, Row):
                    self._add(row, columns)
                else:
                    self._unreadable += 1
                yield row

        return replace(table, read=read)

    def _add(self, row: Row, columns: Columns) -> None:
        for column in (*columns.by_field["audio"], *columns.by_field["ref_audio"]):
            value = row.values.get(column)
            value = value.get("path") if isinstance(value, dict) else value
            if isinstance(value, str):
                self._keys |= {_key_of(value), _key_of(urllib.parse.unquote(value))}

    def without(self, audio: Iterable[Path], root: Path) -> str | None:
        """Describe the recordings that no row names; None if rows that could not be read may be theirs."""
        left = [path for path in audio if _key_of(path.name) not in self._keys]
        if len(left) <= self._unreadable:
            return None
        return f"no row names {_shown(left, root, 'recording')}"


def in_another_split(path: Path) -> bool:
    """Whether a file is called like the table of a split that is not trained on: `dev.tsv`, `metadata_test.csv`."""
    return path.suffix.lower() in _TABLES and bool(tables.OTHER_PARTS & set(tables.words_of(path.stem)))


def texts_alone(texts: Iterable[Path], used: set[Path], audio: Iterable[Path], root: Path) -> str | None:
    """Describe the texts that are used for no recording and are called like none; None if there are none.

    Only folders that have texts of recordings are looked at: elsewhere are tables of speakers, licences and the like.
    """
    folders = {path.parent for path in used}
    stems = {key(audio_files.stem(path.name)) for path in audio}
    alone = [
        path
        for path in texts
        if path.suffix.lower() in _TEXTS
        and path.parent in folders
        and path not in used
        and not path.name.lower().startswith(_ABOUT)
        and not begins_like(path.name, stems)
    ]
    return f"no recording is called like {_shown(alone, root, 'text')}" if alone else None


def _key_of(name: str) -> str:
    return key(audio_files.stem(name.strip().replace("\\", "/").rsplit("/", 1)[-1]))


def _shown(paths: list[Path], root: Path, what: str) -> str:
    return f"{len(paths)} {what}{'s' if len(paths) > 1 else ''} in {root.name}: {some(root, paths)}"
