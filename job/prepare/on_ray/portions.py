"""Cuts what is to be encoded of a shard into portions for the workers, and puts the shard together again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from job.core import console
from job.prepare.encode import Item
from job.prepare.row_encoder import STAGE

if TYPE_CHECKING:
    import pyarrow as pa

    from job.prepare.manifest_rows import Row
    from job.prepare.shards import Shard


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a worker returns of a portion: the items of its rows, in order, and lines for the log, which only the job
    writes."""

    items: list[Item]
    warnings: list[str]


@dataclass(slots=True)
class Assembly:
    """A shard whose rows are being encoded: what is known of them, and how many portions are still to come."""

    shard: Shard
    rows: list[Row]
    found: dict[int, list[Item]] = field(default_factory=dict)
    left: int = 0

    def items(self) -> list[Item]:
        """Its items, in the order of its rows."""
        return [item for row in self.rows for item in self.found.get(row.position, ())]


@dataclass(slots=True, eq=False)
class Portion:
    """Rows of a shard that one worker encodes, and how often a worker was lost over them."""

    assembly: Assembly
    rows: list[Row]
    losses: int = 0

    def done(self, found: Encoded, place: str | None) -> Assembly | None:
        """Take what a worker on the machine `place` returns. Returns the shard if it is complete with it."""
        for warning in found.warnings:
            console.warn(STAGE, f"a Ray worker on {place}: {warning}")
        for item in found.items:
            self.assembly.found.setdefault(item.row.position, []).append(item)
        self.assembly.left -= 1
        return None if self.assembly.left else self.assembly

    def named(self) -> str:
        """Which rows these are, for messages."""
        first, last = self.rows[0], self.rows[-1]
        return f"rows {first.number} to {last.number} of {first.source}"


def begun(
    shard: Shard, rows: list[Row], size: int | None, earlier: Callable[[Row], pa.Table | None]
) -> tuple[Assembly, list[Portion]]:
    """Begin a shard. Returns it, and the portions of `size` rows (all in one if None) that it lacks.

    Rows that an `earlier` run encoded are in it from the start.
    """
    assembly, new = Assembly(shard, rows), []
    for row in rows:
        if (table := earlier(row)) is None:
            new.append(row)
        else:
            assembly.found[row.position] = [Item(row, earlier=table)]
    step = size or max(1, len(new))
    portions = [Portion(assembly, new[start : start + step]) for start in range(0, len(new), step)]
    assembly.left = len(portions)
    return assembly, portions
