"""Make rows of what is stored of a recording: of its transcript, or of its sentences that were found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from job.audio import audio_files
from job.fetch import audio_store, segments
from job.fetch.audio_store import Store
from job.fetch.columns import Columns
from job.fetch.table import TRANSCRIBED_BY, Row, RowError, Table, Unreadable
from job.fetch.transcript_store import Line, Region, TranscriptStore


def located(
    store: Store, table: Table, columns: Columns, row: Row
) -> tuple[Path, tuple[float | None, float | None], float, float]:
    """Return a row's recording: its file, the times of the row's part (None for all of it), and where that lies.

    Raises:
        RowError: it is not there, cannot be read, or has no such part.
    """
    value, rate = (columns.value(field, row.values) for field in ("audio", "sampling_rate"))
    path = store.locate(value, "audio", table.folders, table.remote, rate, table.tree, table.below)
    audio_store.check_name(path, "audio")
    length = audio_store.seconds(path)
    part = segments.part(lambda field: columns.value(field, row.values), lambda: length, columns.has_ends)
    if part is None:
        return path, (None, None), 0.0, length
    end = length if part.end is None else part.end
    return path, (part.start, end), part.start, end


def all_of(kept: TranscriptStore, columns: Columns, row: Row, region: Region, text: str) -> Iterator[Row | Unreadable]:
    """Yield all that is stored of a recording: the reason for each entry that was rejected, then its rows."""
    yield from (left_out(row, region, line) for line in kept.rejected(region))
    yield from rows(kept, columns, row, region, region, text)


def rows(kept: TranscriptStore, columns: Columns, row: Row, region: Region, place: Region, text: str) -> Iterator[Row]:
    """Yield a row for each entry in the transcript manifest that lies within `place`, a part of `region`.

    Args:
        kept: the manifest.
        columns: those of the row's table.
        row: the row of the recording.
        region: the recording, or the row's part of it.
        place: the part to look at.
        text: the column for the text.
    """
    for line in kept.rows(place):
        found = {**row.values, text: line.get("text")}
        found |= {column: None for column in columns.by_field["text"] if column != text}
        if line.get("language") not in (None, region.language):  # changed by hand
            found |= dict.fromkeys(columns.by_field["language"] or ("language",), line["language"])
        if "start" in line and (line["start"], line["end"]) != (region.start, region.end):
            found |= {column: None for field in segments.NAMES for column in columns.by_field[field]}
            name = row.values.get("id") or audio_files.stem(region.audio.name)
            found |= {"start": line["start"], "end": line["end"], "id": f"{name}-{round(1000 * line['start']):07d}"}
        if region.told is None and kept.is_as_heard(region, line):
            found[TRANSCRIBED_BY] = line.get("by")
        yield Row(row.number, found, row.source)


def line(times: tuple[Any, Any], text: str, **more: Any) -> Line:
    """Return an entry for `TranscriptStore.add`; what is None is left out of it."""
    given = {name: value for name, value in more.items() if value is not None}
    return {"start": times[0], "end": times[1], "text": text, **given}


def left_out(row: Row, region: Region, rejected: Line) -> Unreadable:
    """Return the reason for an entry that was rejected."""
    at = "" if rejected["start"] is None else f" at {rejected['start']:.1f} to {rejected['end']:.1f} s"
    detail = f"{region.audio.name}{at}: {rejected['detail']}"
    return Unreadable(row.number, RowError(rejected["reason"], detail), row.source)
