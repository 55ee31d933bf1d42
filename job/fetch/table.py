"""The common form of all sources: a table of named columns and numbered rows, some of them unreadable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Key of a row whose text was transcribed: the recogniser's name.
TRANSCRIBED_BY = "transcribed_by"

#: Size of the sample of rows, spread over a source, from which the contents of its columns are guessed.
SAMPLE_ROWS = 500


class RowError(Exception):
    """The reason why one row is rejected. `kind` groups rows in the summary, `detail` is about this row.

    `looked_for` are paths none of which was a non-empty file: once one of them is, the row can be read.
    """

    def __init__(self, kind: str, detail: str = "", looked_for: Sequence[str] = ()) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail
        self.looked_for = looked_for


@dataclass(frozen=True)
class Kept:
    """A recording that lies in a shard on this machine: a path that says where (`job.core.inside`)."""

    path: Path


@dataclass(frozen=True)
class Row:
    """A row with the source's values. `number` counts from 1; in a text file it is the line number.

    `source` is its source's name in a table that has the rows of several; None for the table's own name.
    """

    number: int
    values: Mapping[str, Any]
    source: str | None = None


@dataclass(frozen=True)
class Unreadable:
    """A row that could not be parsed (a broken line)."""

    number: int
    error: RowError
    source: str | None = None


@dataclass(frozen=True)
class Table:
    """One split of one source.

    `name` goes into the manifest's `source` and into generated ids, `where` into messages (it names the variable),
    `columns` are all columns, in order of appearance. `read` starts from the first row each time it is called.
    `folders` are searched for relative paths, in that order; `remote` opens what is not on this machine.
    `audio_types` are columns that the source itself declares to be audio. `total` is the number of rows, if known.
    `tree` is a folder below which files are also looked for by name; outside of `below` no row names a file.
    `sample` returns the plain values (no lists, no bytes) of rows spread over the source; none if reading is costly.
    `loose` says that rows have the imprecise times of subtitles, whose edges may lie inside a word.
    `copies` are the names of the shards' copies on this machine that reading needs.
    `voices` gets the x-vectors that come with encoded rows; None if there are none.
    `header=False` says that the columns are called column_1, column_2 and so on, and can be selected by position.
    """

    name: str
    where: str
    columns: list[str]
    read: Callable[[], Iterator[Row | Unreadable]]
    folders: list[Path] = field(default_factory=list)
    remote: Callable[[str], bytes | Path] | None = None
    audio_types: list[str] = field(default_factory=list)
    total: int | None = None
    tree: Path | None = None
    below: Path | None = None
    sample: Callable[[], list[Mapping[str, Any]]] = list
    header: bool = True
    loose: bool = False
    copies: tuple[str, ...] = ()
    voices: Callable[[], Path | None] = lambda: None
