"""Read the prepared dataset, for train and evaluate.

The layout is plain Parquet, so `datasets.load_dataset("parquet", data_files=...)` reads it too.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from job.config.paths import Paths
from job.core import files
from job.core.errors import BadInput

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

#: The splits that prepare writes; `validation` only when it has rows.
SPLITS = ("train", "validation")
#: File of the x-vectors in a dataset that is published.
VECTORS = "speakers.safetensors"

#: Rows per record batch of an Arrow file.
_CACHE_ROWS = 2000
#: Key in an Arrow file's schema that identifies the Parquet files it was made from.
_MARKS = b"parquet"
#: Bytes at the end of a Parquet file that are compared.
_END = 1 << 16


def schema(codebooks: int) -> pa.Schema:
    """Columns of a prepared split. `codes` is a list of frames, each a list of `codebooks` int16 codes."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("speaker", pa.string(), nullable=False),
            pa.field("language", pa.string(), nullable=False),
            pa.field("instruct", pa.string()),
            pa.field("seconds", pa.float32(), nullable=False),
            pa.field("codes", pa.list_(pa.list_(pa.int16(), codebooks)), nullable=False),
        ]
    )


def read_summary(paths: Paths) -> dict[str, Any]:
    """The prepared dataset's `summary.json`: splits, sizes, speakers, languages.

    Raises:
        BadInput: there is no prepared dataset.
    """
    path = paths.prepared / "summary.json"
    try:
        summary: dict[str, Any] = files.read_json(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read; run `python -m job prepare` first (WORK_DIR)") from error
    return summary


def read_split(paths: Paths, split: str) -> pa.Table:
    """All rows of a split in order, memory-mapped; no rows if there is no such split.

    Parquet is compressed, so an Arrow file with the same rows is mapped: the one that prepare has cached or, if the
    dataset comes from elsewhere, a temporary one that is made now.

    Raises:
        BadInput: there is no prepared dataset, or one of its files is damaged.
    """
    summary = read_summary(paths)
    expected = schema(int(summary["books"]))
    shards = parquet_files(paths, split)
    if not shards:
        return expected.empty_table()
    cached = _cached(paths, split, shards)
    if cached is not None:
        return cached.replace_schema_metadata(None)
    here = paths.prepared.parent
    try:
        with tempfile.TemporaryFile(dir=here if os.access(here, os.W_OK) else None) as file:
            _write_arrow(file, shards, expected)
            file.flush()
            return _map(file).replace_schema_metadata(None)
    except pa.ArrowException as error:
        raise _damaged(paths, split) from error
    except OSError as error:
        if error.errno is not None:  # an error of the disk, not of the files
            raise
        raise _damaged(paths, split) from error


def write_cache(paths: Paths) -> None:
    """Write the prepared splits as Arrow files, for `read_split` to map."""
    expected = schema(int(read_summary(paths)["books"]))
    for split in SPLITS:
        shards = parquet_files(paths, split)
        path = _cache_file(paths, split)
        if not shards:
            path.unlink(missing_ok=True)
            continue

        def write(temporary: Path, shards: list[Path] = shards) -> None:
            with open(temporary, "wb") as file:
                _write_arrow(file, shards, expected)

        files.write_with(path, write)


def _damaged(paths: Paths, split: str) -> BadInput:
    return BadInput(f"{paths.prepared / split} is damaged; run `python -m job prepare` with FORCE=true")


def _cache_file(paths: Paths, split: str) -> Path:
    return paths.cache / f"{split}.arrow"


def parquet_files(paths: Paths, split: str) -> list[Path]:
    """The Parquet files of a split, in order."""
    return sorted((paths.prepared / split).glob("*.parquet"))


def _marks(shards: list[Path]) -> bytes:
    """Identify Parquet files without reading them whole: their sizes and their footers, which contain the layout."""
    ends = [(path.name, path.stat().st_size, files.digest_bytes(files.read_end(path, _END))) for path in shards]
    return repr(ends).encode()


def _write_arrow(file: IO[bytes], shards: list[Path], expected: pa.Schema) -> None:
    """Copy Parquet files into one Arrow file, batch by batch."""
    noted = expected.with_metadata({_MARKS: _marks(shards)})
    with pa.ipc.new_file(file, noted) as writer:
        for shard in shards:
            with pq.ParquetFile(shard) as parquet:
                for batch in parquet.iter_batches(_CACHE_ROWS):
                    writer.write_batch(batch.cast(expected))


def _cached(paths: Paths, split: str, shards: list[Path]) -> pa.Table | None:
    """The split from prepare's cache; None if that is damaged or was made from other files."""
    try:
        with open(_cache_file(paths, split), "rb") as file:
            if os.fstat(file.fileno()).st_mtime_ns < max(path.stat().st_mtime_ns for path in shards):
                return None
            mapped = _map(file)
            return mapped if (mapped.schema.metadata or {}).get(_MARKS) == _marks(shards) else None
    except (OSError, ValueError, pa.ArrowException):
        return None


def _map(file: IO[bytes]) -> pa.Table:
    """Memory-map an Arrow file as a table; the file may then be closed and removed."""
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.py_buffer(mapped)).read_all()


def read_speakers(paths: Paths) -> dict[str, torch.Tensor]:
    """Speaker name (lower case) -> x-vector, fp32, shape (enc_dim,).

    Raises:
        BadInput: there is no prepared dataset.
    """
    from safetensors.torch import load_file

    if not paths.speakers.is_file():
        raise BadInput(f"{paths.speakers} is missing; run `python -m job prepare` first (WORK_DIR)")
    return load_file(paths.speakers)


def speaker_shapes(paths: Paths) -> dict[str, tuple[int, ...]]:
    """Speaker name -> shape of its x-vector, from the file's header.

    Raises:
        BadInput: there is no prepared dataset, or the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not paths.speakers.is_file():
        raise BadInput(f"{paths.speakers} is missing; run `python -m job prepare` first (WORK_DIR)")
    try:
        with safe_open(str(paths.speakers), framework="numpy") as vectors:
            return {name: tuple(vectors.get_slice(name).get_shape()) for name in vectors.keys()}  # noqa: SIM118  # no dict
    except SafetensorError as error:
        raise BadInput(f"{paths.speakers} is damaged; run `python -m job prepare` with FORCE=true") from error


def row_codes(table: pa.Table, index: int) -> NDArray[np.int16]:
    """Codes of one row as an array of shape (frames, codebooks), without going through Python lists."""
    frames = table.column("codes")[index].values
    codebooks = table.schema.field("codes").type.value_type.list_size
    return np.asarray(frames.flatten().to_numpy(zero_copy_only=False), dtype=np.int16).reshape(-1, codebooks)
