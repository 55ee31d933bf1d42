"""Split a Parquet shard into a pack of its recordings, and a Parquet file of the rest that names their places."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from job.core import files
from job.core.errors import BadInput
from job.core.inside import PACK, Place
from job.fetch import packs
from job.fetch.audio_store import ending_of
from job.fetch.sheets import is_plain
from job.fetch.table import SAMPLE_ROWS, Kept, Row

#: Rows that are in memory with their recordings, and those of the other columns that are written at once.
BATCH, GROUP = 16, 1024
#: Key of a column's metadata: its recordings are in the pack.
_MARK = b"in the pack"


def look(file: IO[bytes], where: str) -> tuple[list[str], list[Mapping[str, Any]]]:
    """Read a shard's columns, and a sample of the plain ones.

    Raises:
        BadInput: it is not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            plain = [field.name for field in schema if is_plain(field.type)]
            rows: list[Mapping[str, Any]] = []
            if plain and opened.num_row_groups:
                batches = opened.iter_batches(SAMPLE_ROWS, row_groups=[0], columns=plain)
                rows = next((batch.to_pylist() for batch in batches), [])
    except pa.ArrowInvalid as error:
        raise cut_off(where) from error
    return list(schema.names), rows


def convert(shard: Path, into: Path) -> None:
    """Write the pack and the other columns of a shard, both or neither.

    Raises:
        BadInput: the shard is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    pack = into.with_suffix(PACK)
    try:
        with parquet.ParquetFile(shard, pre_buffer=False, buffer_size=1 << 20) as opened:
            schema = opened.schema_arrow
            marked = [n for n, field in enumerate(schema) if _has_bytes(field.type)]
            place = pa.struct([("place", pa.string()), ("path", pa.string())])
            slim = schema.remove_metadata()
            for n in marked:
                slim = slim.set(n, pa.field(slim.field(n).name, place, metadata={_MARK: b"1"}))

            def write(temporary: Path) -> None:
                with open(temporary, "wb", buffering=0) as sounds, files.named_errors(pack):
                    files.write_with(into.with_suffix(".columns"), lambda columns: _write(columns, sounds))
                    os.fsync(sounds.fileno())

            def _write(columns: Path, sounds: IO[bytes]) -> None:
                with parquet.ParquetWriter(columns, slim, compression="zstd") as writer:
                    waiting: list[Any] = []
                    for batch in opened.iter_batches(BATCH):
                        arrays = list(batch.columns)
                        for n in marked:
                            arrays[n] = pa.array([_kept(one, sounds) for one in batch.column(n).to_pylist()], place)
                        waiting.append(pa.record_batch(arrays, schema=slim))
                        if len(waiting) * BATCH >= GROUP:
                            writer.write_table(pa.Table.from_batches(waiting))
                            waiting = []
                    if waiting:
                        writer.write_table(pa.Table.from_batches(waiting))

            files.write_with(pack, write)
    except pa.ArrowInvalid as error:
        raise cut_off(into.name) from error
    into.with_suffix(".columns").replace(into)


def rows(path: Path, columns: list[str], where: str) -> Iterator[Row]:
    """Read the rows of a converted shard; recordings are named, not read.

    Raises:
        BadInput: it has other columns than the first one.
    """
    import pyarrow.parquet as parquet

    pack = path.with_suffix(PACK)
    with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as opened:
        schema = opened.schema_arrow
        if set(schema.names) != set(columns):
            raise BadInput(f"{where} has other columns than the first shard; they must have the same")
        marked = [field.name for field in schema if _MARK in (field.metadata or {})]
        number = 0
        for batch in opened.iter_batches(64):
            for values in batch.to_pylist():
                number += 1
                for name in marked:
                    if (value := values[name]) is not None:
                        values[name] = value["path"] if value["place"] is None else Kept(pack / value["place"])
                yield Row(number, values)


def cut_off(where: str) -> BadInput:
    """The error for a shard without the end that every Parquet file has."""
    return BadInput(f"{where} is no Parquet file, or is cut off or damaged; write it again")


def _has_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _kept(value: Any, sounds: IO[bytes]) -> dict[str, str | None] | None:
    path = value.get("path") if isinstance(value, dict) else None
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        return None if path is None else {"place": None, "path": path}
    start = sounds.tell()
    packs.write_all(sounds, data)
    name = packs.name_of(data, ending_of(data, path or ""))
    return {"place": Place(Path(), start, len(data), name).path().name, "path": path}
