"""Collect columns of numbers over all shards, one value per usable row, to compare rows with each other afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.dataset.prepared import SPLITS

#: Values of a column that are allocated at once: large pieces go back to the system when they are freed, and a small
#: one for each shard would lie scattered between what is freed.
PIECE = 1 << 16


class Column:
    """Numbers, or rows of `width` numbers, that grow by what is added."""

    def __init__(self, kind: type[Any], width: int | None = None) -> None:
        self._kind, self._shape = kind, (() if width is None else (width,))
        self._whole: list[NDArray[Any]] = []
        self._piece = np.empty((0, *self._shape), kind)
        self._used = 0

    def add(self, values: Any) -> None:
        """Append values, converted to the column's dtype."""
        values = np.asarray(values, dtype=self._kind).reshape(-1, *self._shape)
        while len(values):
            if self._used == len(self._piece):
                self._close()
                self._piece, self._used = np.empty((PIECE, *self._shape), self._kind), 0
            count = min(len(values), len(self._piece) - self._used)
            self._piece[self._used : self._used + count] = values[:count]
            self._used, values = self._used + count, values[count:]

    def take(self) -> NDArray[Any]:
        """Return all values and forget them; pieces are freed as they are copied, so nothing is there twice."""
        self._close()
        values = np.empty((sum(map(len, self._whole)), *self._shape), self._kind)
        at = len(values)
        while self._whole:
            piece = self._whole.pop()
            values[at - len(piece) : at] = piece
            at -= len(piece)
        return values

    def _close(self) -> None:
        if self._used:
            self._whole.append(self._piece[: self._used])
        self._piece, self._used = np.empty((0, *self._shape), self._kind), 0


class Noted:
    """The columns, by name and dtype; `split` is a split's index in `SPLITS`."""

    def __init__(self, kinds: Mapping[str, type[Any]]) -> None:
        self._columns = {name: Column(kind) for name, kind in kinds.items()}

    def add(self, split: str, table: pa.Table, values: Mapping[str, Any]) -> None:
        """Append a shard's rows.

        Args:
            table: the rows, with all columns that are neither `split` nor in `values`; none of them null.
            values: column -> its values for these rows.
        """
        values = {"split": np.full(len(table), SPLITS.index(split)), **values}
        for name, column in self._columns.items():
            column.add(values[name] if name in values else table[name].to_numpy())

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return each column, (rows,), in the order in which shards were added, and forget them."""
        return {name: column.take() for name, column in self._columns.items()}
