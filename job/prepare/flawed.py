"""Judge rows by the limits of `job.prepare.thresholds`: reject, warn, or report a flaw once for a whole source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.prepare.leaving_out import LeftOut
from job.prepare.noted import Noted
from job.prepare.thresholds import LIMITS, OF_SOURCE, Limit

#: Fewest rows beyond a limit for it to count as how a source was recorded.
FEWEST_OF_SOURCE = 3

_FIGURES = tuple(dict.fromkeys(limit.figure for limit in LIMITS))


@dataclass(frozen=True, slots=True)
class Flawed:
    """Result: rows to reject, rows to warn of, and one line per flaw of a whole source."""

    left_out: list[LeftOut]
    named: list[LeftOut]
    sources: list[str]


class Sounds:
    """Collect the figures of all usable rows, shard by shard."""

    def __init__(self) -> None:
        self._sources: dict[str, int] = {}
        kinds = {"split": np.uint8, "position": np.int64, "source": np.int32, "seconds": np.float32}
        self._noted = Noted({**kinds, **dict.fromkeys(_FIGURES, np.float32)})

    def add(self, split: str, table: pa.Table) -> None:
        """Add the usable rows of a shard (`shard_schema`)."""
        table = table.filter(table["reason"].is_null())
        sources = [self._sources.setdefault(one, len(self._sources)) for one in table["source"].to_pylist()]
        figures = {name: table[name].fill_null(np.nan).to_numpy() for name in _FIGURES}
        self._noted.add(split, table, {"source": sources, **figures})

    def compare(self) -> Flawed:
        """Judge all rows by all limits."""
        noted = self._noted.columns()
        noted["dc"] = np.abs(noted["dc"])
        found = Flawed([], [], [])
        for limit in LIMITS:
            warned = self._over(limit, limit.warn, noted)
            refused = self._over(limit, limit.refuse, noted) if limit.refuse is not None else np.zeros_like(warned)
            refused &= ~self._ways(limit, refused, noted, [])
            kept = warned & ~refused
            named = kept & ~self._ways(limit, warned, noted, found.sources)
            found.left_out.append(
                _rows(limit.reason, refused, noted, [limit.detail(v) for v in _of(limit, refused, noted)])
            )
            found.named.append(_rows(limit.reason, named, noted, [""] * int(named.sum())))
        return found

    def _over(self, limit: Limit, value: float, noted: dict[str, NDArray[Any]]) -> NDArray[np.bool_]:
        figure = noted[limit.figure]
        over = figure < value if limit.below else figure > value
        return np.asarray(over & (noted["seconds"] >= limit.least_seconds))

    def _ways(
        self, limit: Limit, over: NDArray[np.bool_], noted: dict[str, NDArray[Any]], said: list[str]
    ) -> NDArray[np.bool_]:
        """Mask of the rows of sources that have this flaw as a whole; each such source is described in `said`."""
        if not len(over):
            return np.zeros_like(over)
        counts = np.bincount(noted["source"])
        hits = np.bincount(noted["source"][over], minlength=len(counts))
        like_this = (hits >= FEWEST_OF_SOURCE) & (hits > OF_SOURCE * counts)
        for source, name in enumerate(self._sources):
            if like_this[source]:
                typical = limit.spare * float(np.median(noted[limit.figure][over & (noted["source"] == source)]))
                shown = f"{limit.figure.replace('_', ' ')} typically {typical:.3g} {limit.unit}".rstrip()
                said.append(
                    f"{limit.reason}: {hits[source]} of {counts[source]} rows of {name} ({shown}), so it is how they "
                    f"were recorded, and they are kept; {limit.advice}"
                )
        return np.asarray(like_this[noted["source"]])


def _of(limit: Limit, rows: NDArray[np.bool_], noted: dict[str, NDArray[Any]]) -> list[float]:
    order = np.lexsort((noted["position"][rows], noted["split"][rows]))
    return [float(value) for value in noted[limit.figure][rows][order]]


def _rows(reason: str, rows: NDArray[np.bool_], noted: dict[str, NDArray[Any]], details: list[str]) -> LeftOut:
    split, position = noted["split"][rows], noted["position"][rows]
    order = np.lexsort((position, split))
    return LeftOut(reason, split[order], position[order], details)
