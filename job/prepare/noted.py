"""Collect columns of numbers over all shards, one value per usable row, to compare rows with each other afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.dataset.prepared import SPLITS


class Noted:
    """The columns, by name and dtype; `split` is a split's index in `SPLITS`."""

    def __init__(self, kinds: Mapping[str, type[Any]]) -> None:
        self._kinds = kinds
        self._parts: dict[str, list[NDArray[Any]]] = {name: [np.zeros(0, kind)] for name, kind in kinds.items()}

    def add(self, split: str, table: pa.Table, values: Mapping[str, Any]) -> None:
        """Append a shard's rows.

        Args:
            table: the rows, with all columns that are neither `split` nor in `values`; none of them null.
            values: column -> its values for these rows.
        """
        values = {"split": np.full(len(table), SPLITS.index(split)), **values}
        for name, kind in self._kinds.items():
            given = values[name] if name in values else table[name].to_numpy()
            self._parts[name].append(np.asarray(given, dtype=kind))

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return each column, (rows,), in the order in which shards were added."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}
