"""Prepared rows on disk: a spool while the splits are not known yet, then Parquet shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from job.prepare.codec import Codes
from job.prepare.dataset import row_codes, schema
from job.prepare.rows import Row

#: Rows of a Parquet file.
SHARD_ROWS = 2000
_BATCH_ROWS = 256


class SpoolWriter:
    """Append rows in the order they are encoded; a few hundred are held in memory."""

    def __init__(self, path: Path, books: int) -> None:
        self._schema = schema(books)
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)
        self._rows: list[tuple[Row, float, Codes]] = []

    def append(self, row: Row, seconds: float, codes: Codes) -> None:
        """Add a row with its codes (frames, books)."""
        self._rows.append((row, seconds, codes))
        if len(self._rows) == _BATCH_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._flush()
        self._writer.close()
        self._sink.close()

    def __enter__(self) -> SpoolWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(_batch(self._rows, self._schema))
            self._rows = []


class SpoolReader:
    """Rows of a closed spool by the position they were appended at; memory-mapped."""

    def __init__(self, path: Path) -> None:
        self._file = pa.ipc.open_file(pa.memory_map(str(path)))

    def codes(self, position: int) -> Codes:
        """Codes (frames, books) of one row."""
        table = pa.Table.from_batches([self._file.get_batch(position // _BATCH_ROWS)])
        return row_codes(table, position % _BATCH_ROWS)

    def take(self, positions: Sequence[int]) -> Iterator[pa.Table]:
        """The rows at increasing `positions`, as tables of at most a few hundred rows."""
        start = 0
        while start < len(positions):
            batch = positions[start] // _BATCH_ROWS
            end = start
            while end < len(positions) and positions[end] // _BATCH_ROWS == batch:
                end += 1
            wanted = pa.array([p % _BATCH_ROWS for p in positions[start:end]], pa.int64())
            yield pa.Table.from_batches([self._file.get_batch(batch).take(wanted)])
            start = end


def write_shards(directory: Path, tables: Iterable[pa.Table], books: int) -> int:
    """Write `00000.parquet`, `00001.parquet` … of `SHARD_ROWS` rows each. Returns the number of rows.

    The bytes depend on the rows alone. `directory` must lie in a directory that is swapped in when it is complete
    (`files.replace_directory`).
    """
    directory.mkdir()
    rows = shard = 0
    waiting = schema(books).empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while waiting.num_rows >= SHARD_ROWS:
            _write_shard(directory, shard, waiting.slice(0, SHARD_ROWS))
            waiting = waiting.slice(SHARD_ROWS)
            shard, rows = shard + 1, rows + SHARD_ROWS
    if waiting.num_rows:
        _write_shard(directory, shard, waiting)
        rows += waiting.num_rows
    return rows


def _write_shard(directory: Path, shard: int, table: pa.Table) -> None:
    path = directory / f"{shard:05d}.parquet"
    pq.write_table(table.combine_chunks(), path, compression="zstd", row_group_size=SHARD_ROWS)


def _batch(rows: Sequence[tuple[Row, float, Codes]], columns: pa.Schema) -> pa.RecordBatch:
    """Rows as Arrow arrays; the codes go in as one flat array with offsets, never as Python integers."""
    all_codes = [codes for _, _, codes in rows]
    offsets = np.cumsum([0, *(len(codes) for codes in all_codes)]).astype(np.int32)
    frame_type = columns.field("codes").type.value_type
    flat = pa.array(np.concatenate(all_codes).reshape(-1), pa.int16())
    frames = pa.FixedSizeListArray.from_arrays(flat, type=frame_type)
    arrays: list[Any] = [
        pa.array([getattr(row, name) for row, _, _ in rows], pa.string()) for name in columns.names[:5]
    ]
    arrays.append(pa.array([seconds for _, seconds, _ in rows], pa.float32()))
    arrays.append(pa.ListArray.from_arrays(pa.array(offsets), frames, type=columns.field("codes").type))
    return pa.RecordBatch.from_arrays(arrays, schema=columns)
