"""Mix several sources into one table (DATASETS), in proportion to their weights, and always in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from job.config.datasets import Entry
from job.config.settings import Settings
from job.core import console
from job.fetch import segments, stored_rows, values
from job.fetch.audio_store import Store
from job.fetch.collect import FRAME_SECONDS
from job.fetch.columns import OVERRIDES, Columns, choose, notes
from job.fetch.edges import Edges
from job.fetch.table import TRANSCRIBED_BY, Row, RowError, Table, Unreadable

#: Columns of the mixed table: those of all sources under one name each.
COLUMNS = ("audio", "text", "ref_audio", "ref_text", "speaker", "language", "instruct", "id", "audio_codes")


@dataclass(frozen=True)
class Part:
    """One source of a mix: its table, and the entry of DATASETS that names it."""

    table: Table
    entry: Entry


def mix(parts: list[Part], settings: Settings, store: Store) -> Table:
    """Return one table with the rows of all parts, each with its source.

    From the parts that have rows left, rows are taken in proportion to their weights, so that MAX_HOURS and
    MAX_TRAIN_SAMPLES take the same shares of all. Without a limit, all rows are taken.

    Raises:
        BadInput: a part lacks a column.
    """
    chosen = [choose(part.table, settings) for part in parts]
    for part, columns in zip(parts, chosen, strict=True):
        for note in notes(part.table, columns):
            console.say("fetch", note)
    used = [field for field in COLUMNS if any(columns.by_field[field] for columns in chosen)]

    def read() -> Iterator[Row | Unreadable]:
        taken = [_Taken(part, columns, settings, store) for part, columns in zip(parts, chosen, strict=True)]
        going = [(one, one.rows()) for one in taken]
        while going:
            one, rows = min(going, key=lambda pair: (pair[0].count + 1) / pair[0].part.entry.weight)
            row = next(rows, None)
            if row is None:
                going = [pair for pair in going if pair[0] is not one]
            else:
                yield row
        for one in taken:
            console.say("fetch", one.line())

    totals = [part.table.total for part in parts]
    return Table(
        name="DATASETS",
        where="DATASETS",
        columns=[*used, "start", "end"],
        read=read,
        folders=[Path("/")],
        total=None if None in totals else sum(total for total in totals if total is not None),
    )


class _Taken:
    """The rows of one part, as far as its limits go, and how many they are."""

    def __init__(self, part: Part, columns: Columns, settings: Settings, store: Store) -> None:
        self.part = part
        self.count = 0
        self.seconds = 0.0
        self._columns, self._settings, self._store = columns, settings, store
        self._edges = Edges()

    def rows(self) -> Iterator[Row | Unreadable]:
        """Yield the rows until one of the part's limits is reached."""
        entry, name = self.part.entry, self.part.table.name
        for row in self.part.table.read():
            source = f"{name}/{row.source}" if row.source not in (None, name) else name
            if self.count == entry.rows:
                return
            try:
                if isinstance(row, Unreadable):
                    raise row.error
                found, seconds = self._row(row)
            except RowError as error:
                yield Unreadable(row.number, error, source)
                continue
            if self._settings.min_seconds <= seconds <= self._settings.max_seconds:
                if entry.hours is not None and self.seconds + seconds > 3600 * entry.hours:
                    return
                self.seconds += seconds
            self.count += 1
            yield Row(row.number, found, source)

    def line(self) -> str:
        """Return a log line about what was taken."""
        edges = self._edges.line()
        return f"{self.part.table.name}: {self.count} rows of {self.seconds / 3600:.2f} h" + (
            f"; {edges}" if edges else ""
        )

    def _row(self, row: Row) -> tuple[dict[str, Any], float]:
        """Return a row under the names of `COLUMNS`, and its length in seconds.

        Raises:
            RowError: its recording is not there or cannot be read.
        """
        get: Callable[[str], Any] = lambda field: self._columns.value(field, row.values)  # noqa: E731
        values.required_text(get("text"))  # so that the limits count usable rows only
        table = self.part.table
        found = {field: get(field) for field in COLUMNS}
        if found["ref_audio"]:
            path = self._store.locate(
                found["ref_audio"], "ref_audio", table.folders, table.remote, None, table.tree, table.below
            )
            found["ref_audio"] = str(path)
        if found["audio_codes"] is not None:
            try:
                found["audio"] = str(stored_rows.located(self._store, table, self._columns, row)[0])
            except RowError:
                found["audio"] = None
            return found, len(found["audio_codes"]) * FRAME_SECONDS
        path, times, start, end = stored_rows.located(self._store, table, self._columns, row)
        if table.loose and None not in times:
            settled = self._edges.settle(path, segments.Part(start, end))
            times = (settled.start, settled.end)
        found |= {"audio": str(path), "start": times[0], "end": times[1]}
        if by := row.values.get(TRANSCRIBED_BY):
            found[TRANSCRIBED_BY] = by
        return found, end - start


def without_columns(settings: Settings) -> Settings:
    """Return settings for the mixed table, in which columns have the usual names (TEXT_COLUMN and so on are done)."""
    return settings.model_copy(update=dict.fromkeys(OVERRIDES.values()))


def named_apart(parts: list[Part]) -> list[Part]:
    """Return the parts with a name of its own for each: two splits of one dataset are two sources."""
    names = [part.table.name for part in parts]
    return [
        part if names.count(name) == 1 else replace(part, table=replace(part.table, name=part.entry.text))
        for part, name in zip(parts, names, strict=True)
    ]
