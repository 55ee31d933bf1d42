"""What every source is turned into: named columns and numbered rows, some of them unreadable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: How many rows, spread over a source, are looked at to tell its columns by what they hold.
SAMPLE_ROWS = 500


class RowError(Exception):
    """Why one row is left out. `kind` groups rows in the summary, `detail` is about this one.

    `looked_for` are paths of which none was a file with something in it: when one is, the row can be read.
    """

    def __init__(self, kind: str, detail: str = "", looked_for: Sequence[str] = ()) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail
        self.looked_for = looked_for


@dataclass(frozen=True)
class Row:
    """A row as the source has it. `number` counts from 1, and is the line in a text file."""

    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Unreadable:
    """A row that is not even a row (a broken line)."""

    number: int
    error: RowError


@dataclass(frozen=True)
class Table:
    """One split of one source.

    `name` goes into the manifest's `source` and into made-up ids, `where` into messages (it names the variable),
    `columns` are all the columns there are, in order of appearance. `read` starts over each time it is called.
    `folders` are where relative paths are looked for, in that order; `remote` opens what is not on this machine.
    `audio_types` are columns that the source itself declares to be audio. `total` is the number of rows, if known.
    Below `tree`, files are looked for by their name, too.
    `sample` gives the plain values (no lists, no bytes) of rows spread over the source, none where looking is not free.
    `loose` says that the times of its rows are a subtitle's, whose edges may be in a word.
    `header=False` says that the columns have no names but column_1, column_2 and so on, and can be named by position.
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
    sample: Callable[[], list[Mapping[str, Any]]] = list
    header: bool = True
    loose: bool = False
