"""Reading the prepared dataset: what train and evaluate use.

The layout is plain Parquet, so `datasets.load_dataset("parquet", data_files=...)` reads it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from job import files
from job.errors import BadInput
from job.paths import Paths

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

#: The splits that prepare writes; `validation` only when it has rows.
SPLITS = ("train", "validation")


def schema(books: int) -> pa.Schema:
    """Columns of a prepared split. `codes` is a list of frames, each a list of `books` int16 codes."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("speaker", pa.string(), nullable=False),
            pa.field("language", pa.string(), nullable=False),
            pa.field("instruct", pa.string()),
            pa.field("seconds", pa.float32(), nullable=False),
            pa.field("codes", pa.list_(pa.list_(pa.int16(), books)), nullable=False),
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
    """All rows of a split in order, memory-mapped from disk; no rows when there is no such split.

    Raises:
        BadInput: there is no prepared dataset, or one of its files is damaged.
    """
    summary = read_summary(paths)
    expected = schema(int(summary["books"]))
    shards = sorted((paths.prepared / split).glob("*.parquet"))
    if not shards:
        return expected.empty_table()
    try:
        return pa.concat_tables([pq.read_table(shard, schema=expected, memory_map=True) for shard in shards])
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"{paths.prepared / split} is damaged; run `python -m job prepare` with FORCE=true") from error


def read_speakers(paths: Paths) -> dict[str, torch.Tensor]:
    """Speaker name (lower case) -> x-vector, fp32, shape (enc_dim,).

    Raises:
        BadInput: there is no prepared dataset.
    """
    from safetensors.torch import load_file

    if not paths.speakers.is_file():
        raise BadInput(f"{paths.speakers} is missing; run `python -m job prepare` first (WORK_DIR)")
    return load_file(paths.speakers)


def row_codes(table: pa.Table, index: int) -> NDArray[np.int16]:
    """Codes of one row as an array of shape (frames, books), without going through Python lists."""
    frames = table.column("codes")[index].values
    books = table.schema.field("codes").type.value_type.list_size
    return np.asarray(frames.flatten().to_numpy(zero_copy_only=False), dtype=np.int16).reshape(-1, books)
