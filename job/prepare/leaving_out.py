"""Rows rejected after encoding, because comparison with other rows shows that they are wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.dataset.prepared import SPLITS


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows rejected for one `reason`: their splits (indices into SPLITS), positions and details, (rows,) each.

    Splits are in ascending order, and positions within each split.
    """

    reason: str
    split: NDArray[np.uint8]
    position: NDArray[np.int64]
    details: list[str] = field(repr=False)

    @classmethod
    def nothing(cls, reason: str) -> LeftOut:
        """Reject no rows."""
        return cls(reason, np.zeros(0, np.uint8), np.zeros(0, np.int64), [])

    @classmethod
    def of(cls, reason: str, details: Mapping[tuple[int, int], str]) -> LeftOut:
        """Reject the rows with these details, by split (an index into SPLITS) and position."""
        places = sorted(details)
        split: NDArray[np.uint8] = np.array([one for one, _ in places], np.uint8)
        position: NDArray[np.int64] = np.array([one for _, one in places], np.int64)
        return cls(reason, split, position, [details[place] for place in places])

    def mark(self, split: str, table: pa.Table, gate: str) -> pa.Table:
        """Mark these rows as rejected in a shard; with QUALITY_GATE=off they are kept with a warning.

        Rows that are already rejected keep their reason.
        """
        number = SPLITS.index(split)
        begin, end = np.searchsorted(self.split, number), np.searchsorted(self.split, number, "right")
        if begin == end or not len(table):
            return table
        mine = self.position[begin:end]  # a view: there is a call for each shard, and these may be millions
        positions = table["position"].to_numpy()
        places = np.searchsorted(mine, positions).clip(max=len(mine) - 1)
        hit = np.flatnonzero((mine[places] == positions) & table["reason"].is_null().to_numpy(zero_copy_only=False))
        if not len(hit):
            return table
        if gate == "off":
            return with_warnings(table, hit, self.reason)
        reasons, details = table["reason"].to_pylist(), table["detail"].to_pylist()
        for row in hit:
            reasons[row], details[row] = self.reason, self.details[begin + places[row]]
        return with_column(with_column(table, "reason", reasons), "detail", details)


def with_warnings(table: pa.Table, rows: Iterable[int], reason: str) -> pa.Table:
    """Return a shard in which the rows (numbered from 0) have one more warning, without duplicates."""
    warnings = table["warnings"].to_pylist()
    for row in rows:
        warnings[row] = [*(one for one in warnings[row] if one != reason), reason]
    return with_column(table, "warnings", warnings)


def with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    """Return a table with the values of one column replaced."""
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))
