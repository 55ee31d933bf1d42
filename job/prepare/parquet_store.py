"""Storage of rows on disk: the columns of an encoded shard, and the Parquet files of the prepared dataset."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from job.audio import flaws
from job.core import files
from job.dataset.prepared import schema
from job.prepare.codec import Codec
from job.prepare.encode import Item
from job.prepare.mismatch import measures

#: Rows per Parquet file.
SHARD_ROWS = 2000

#: Columns of a shard besides those of the prepared dataset. `reason` and `detail` are set for rejected rows, those from
#: `rms` on for rows whose recording was measured.
_BESIDES: tuple[tuple[str, pa.DataType], ...] = (
    ("position", pa.int64()),
    ("number", pa.int64()),
    ("source", pa.string()),
    ("audio", pa.binary()),  # paths need not be Unicode
    ("ref_audio", pa.binary()),
    ("start", pa.float64()),
    ("end", pa.float64()),
    ("reason", pa.string()),
    ("detail", pa.string()),
    ("warnings", pa.list_(pa.string())),
    ("characters", pa.int32()),
    ("letters", pa.float32()),
    ("heard", pa.float32()),
    ("digest", pa.uint64()),
    ("rms", pa.float64()),
    ("peak", pa.float64()),
    ("snr", pa.float64()),
    ("clipped", pa.float64()),
    ("rate", pa.int32()),
    ("channels", pa.int32()),
    ("dc", pa.float64()),
    ("flat_tops", pa.float64()),
    ("dropouts", pa.float64()),
    ("speech", pa.float64()),
    ("pause", pa.float64()),
    *((name, pa.float32()) for name in flaws.NAMES),
    ("print", pa.binary()),
)
_MEASURED = ("rms", "peak", "snr", "clipped", "rate", "channels", "dc", "flat_tops", "dropouts")
_HEARD = ("speech", "pause")


def shard_schema(codebooks: int) -> pa.Schema:
    """Schema of an encoded shard: the columns of a prepared split, and those needed for statistics and checks."""
    return pa.schema([*schema(codebooks), *(pa.field(name, kind) for name, kind in _BESIDES)])


def shard_table(items: Sequence[Item], codec: Codec) -> pa.Table:
    """Build a table of encoded and rejected items, and of those that an earlier run encoded, in their order."""
    fresh = [number for number, item in enumerate(items) if item.earlier is None]
    table = _table_of([items[number] for number in fresh], codec)
    if len(fresh) == len(items):
        return table
    other = [number for number, item in enumerate(items) if item.earlier is not None]
    taken = pa.concat_tables([item.earlier for item in items if item.earlier is not None]).cast(table.schema)
    for name, values in _of_rows([items[number] for number in other]).items():
        place = table.schema.get_field_index(name)
        taken = taken.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    order = np.argsort(np.array([*fresh, *other]))
    return pa.concat_tables([table, taken]).take(order).combine_chunks()


def _of_rows(items: Sequence[Item]) -> dict[str, list[Any]]:
    """The columns that are the rows' own, whatever their recordings sound like."""
    names = ("id", "text", "speaker", "language", "instruct", "position", "number", "source", "start", "end")
    values: dict[str, list[Any]] = {name: [getattr(item.row, name) for item in items] for name in names}
    for name in ("audio", "ref_audio"):
        paths = [getattr(item.row, name) for item in items]
        values[name] = [None if path is None else os.fsencode(path) for path in paths]
    return values


def _table_of(items: Sequence[Item], codec: Codec) -> pa.Table:
    """Build a table of encoded and rejected items; codes are passed as one flat array, never as Python integers."""
    columns = shard_schema(codec.codebooks)
    nothing = np.zeros((0, codec.codebooks), dtype=np.int16)
    codes = [nothing if item.codes is None else item.codes for item in items]
    offsets = np.cumsum([0, *(len(one) for one in codes)]).astype(np.int32)
    flat = pa.array(np.concatenate([nothing, *codes]).reshape(-1), pa.int16())
    frames = pa.FixedSizeListArray.from_arrays(flat, type=columns.field("codes").type.value_type)
    values = _of_rows(items)
    values["seconds"] = [len(one) / codec.frame_rate for one in codes]
    for name in ("reason", "detail"):
        values[name] = [None if item.unusable is None else getattr(item.unusable, name) for item in items]
    values["warnings"] = [item.warnings(codec.frame_rate) for item in items]
    values["characters"] = [len(item.row.text) for item in items]
    lengths = [measures(item, codec.frame_rate) for item in items]
    for name in ("letters", "heard"):
        values[name] = [one[name] for one in lengths]
    values["digest"] = [item.digest() for item in items]
    for name in _MEASURED:
        values[name] = [None if item.figures is None else getattr(item.figures, name) for item in items]
    for name in _HEARD:
        values[name] = [None if item.heard is None else getattr(item.heard, name) for item in items]
    for name in flaws.NAMES:
        values[name] = [None if item.flaws is None else getattr(item.flaws, name) for item in items]
    values["print"] = [None if item.flaws is None else item.flaws.print.tobytes() for item in items]
    arrays = [
        pa.ListArray.from_arrays(pa.array(offsets), frames, type=field.type)
        if field.name == "codes"
        else pa.array(values[field.name], field.type)
        for field in columns
    ]
    return pa.Table.from_arrays(arrays, schema=columns)


def write_shards(directory: Path, tables: Iterable[pa.Table], codebooks: int) -> int:
    """Write `00000.parquet`, `00001.parquet` … of `SHARD_ROWS` rows each. Returns the number of rows.

    The bytes depend only on the rows. `directory` must be inside a directory that replaces the old one once it is
    complete (`files.replace_directory`).
    """
    directory.mkdir()
    rows = shard = 0
    waiting = schema(codebooks).empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        while waiting.num_rows >= SHARD_ROWS:
            _write_parquet(directory, shard, waiting.slice(0, SHARD_ROWS))
            waiting = waiting.slice(SHARD_ROWS)
            shard, rows = shard + 1, rows + SHARD_ROWS
    if waiting.num_rows:
        _write_parquet(directory, shard, waiting)
        rows += waiting.num_rows
    return rows


def _write_parquet(directory: Path, shard: int, table: pa.Table) -> None:
    path = directory / f"{shard:05d}.parquet"
    with files.named_errors(path), open(path, "wb") as file:
        pq.write_table(table.combine_chunks(), file, compression="zstd", row_group_size=SHARD_ROWS)
