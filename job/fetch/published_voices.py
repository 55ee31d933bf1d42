"""Keep the x-vectors that come with datasets of codes, for prepare."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from job.core import files
from job.core.errors import BadInput
from job.fetch.table import Table


def keep(tables: Iterable[Table], path: Path) -> str | None:
    """Write the x-vectors of all tables, a speaker's of the first that has any; returns their digest.

    Raises:
        BadInput: a file of them is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    vectors: dict[str, Any] = {}
    for table in tables:
        if (there := table.voices()) is None:
            continue
        try:
            vectors = {**load_file(there), **vectors}
        except SafetensorError as error:
            raise BadInput(f"{table.where}: {there.name} is damaged: {error}") from None
    if not vectors:
        path.unlink(missing_ok=True)
        return None
    files.write_with(path, lambda temporary: save_file(vectors, temporary))
    return files.digest_file(path)
