"""Find near-duplicate recordings: the same audio at another level, through a codec, or slightly faster.

Each row's fingerprint (`job.audio.flaws`) is compared only with those in the same hash bucket. The hash is the sides of
random hyperplanes on which a fingerprint lies (locality-sensitive hashing), so that copies share some of their buckets
and no fingerprint has to be compared with all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.audio.flaws import PRINT_SIZE
from job.prepare.leaving_out import LeftOut
from job.prepare.noted import Column, Noted
from job.prepare.thresholds import ALIKE, LENGTHS

#: Warnings for the later copy, and for a validation row whose recording is also in the training data.
REASON, ALSO_TRAINED = "repeated_recording", "also_in_train"
#: Share of rows that are copies above which the corpus consists of takes of the same sentences: no row gets a warning.
MOST = 0.5
#: Number of hash tables, least number of hyperplanes per table, and how many preceding rows in its bucket a row is
#: compared with.
CHESTS, FEWEST_PLANES, BEFORE = 12, 10, 4
#: Rows of which likenesses are computed at once.
ROWS_AT_ONCE = 1 << 14


class Prints:
    """Collect the fingerprints of all usable rows, shard by shard."""

    def __init__(self) -> None:
        self._noted = Noted({"split": np.uint8, "position": np.int64, "seconds": np.float32})
        self._prints = Column(np.int8, PRINT_SIZE)

    def add(self, split: str, table: pa.Table) -> None:
        """Add the usable rows of a shard (`store.shard_schema`) that have a fingerprint."""
        prints = [one if one and any(one) else None for one in table["print"].to_pylist()]
        usable = table["reason"].is_null().to_numpy() & np.array([one is not None for one in prints], dtype=bool)
        table = table.filter(pa.array(usable))
        kept = [one for one, is_kept in zip(prints, usable, strict=True) if is_kept and one is not None]
        self._prints.add(np.frombuffer(b"".join(kept), np.int8))
        self._noted.add(split, table, {})

    def compare(self) -> list[LeftOut]:
        """Find later copies, and validation rows that are also in the training data; for warnings only."""
        noted = self._noted.columns()
        later, crosses = self._copies(self._prints.take(), noted["seconds"], noted["split"])
        if (later | crosses).sum() > MOST * len(noted["split"]):
            return [LeftOut.nothing(REASON), LeftOut.nothing(ALSO_TRAINED)]
        found = []
        for reason, which in ((REASON, later), (ALSO_TRAINED, crosses)):
            rows = np.flatnonzero(which)
            order = rows[np.lexsort((noted["position"][rows], noted["split"][rows]))]
            found.append(LeftOut(reason, noted["split"][order], noted["position"][order], [""] * len(order)))
        return found

    def _copies(
        self, prints: NDArray[np.int8], seconds: NDArray[np.float32], split: NDArray[np.uint8]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows are a copy of an earlier one, in the same split and across splits; both (rows,)."""
        count = len(prints)
        later, crosses = np.zeros(count, bool), np.zeros(count, bool)
        norms = np.concatenate(
            [np.zeros(0, np.float32), *(np.linalg.norm(one.astype(np.float32), axis=1) for one in _parts(prints))]
        )
        planes = max(FEWEST_PLANES, int(count).bit_length())
        draw = np.random.default_rng(0)
        for _ in range(CHESTS):
            drawers = _sides(prints, draw.standard_normal((PRINT_SIZE, planes)).astype(np.float32))
            order = np.argsort(drawers, kind="stable")
            for back in range(1, BEFORE + 1):
                for first, second in zip(_parts(order[:-back]), _parts(order[back:]), strict=True):
                    same = drawers[first] == drawers[second]
                    a, b = first[same], second[same]
                    close = np.abs(seconds[a] - seconds[b]) <= LENGTHS * np.maximum(seconds[a], seconds[b])
                    a, b = a[close], b[close]
                    likeness = (prints[a].astype(np.float32) * prints[b]).sum(axis=1) / (norms[a] * norms[b])
                    alike = likeness >= ALIKE
                    across = split[a] != split[b]
                    copies = np.maximum(a, b)
                    later[copies[alike & ~across]] = True
                    crosses[copies[alike & across]] = True
        return later, crosses


def _parts(rows: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The rows in parts: what is computed of all of them at once would take a kilobyte of memory for each."""
    return (rows[at : at + ROWS_AT_ONCE] for at in range(0, len(rows), ROWS_AT_ONCE))


def _sides(prints: NDArray[np.int8], normals: NDArray[np.float32]) -> NDArray[np.int32]:
    """Hash (n,) of each fingerprint: on which sides of the hyperplanes it lies, as bits; fewer than 31 of them."""
    bits = 1 << np.arange(normals.shape[1], dtype=np.int32)
    found = [((one.astype(np.float32) @ normals > 0) @ bits).astype(np.int32) for one in _parts(prints)]
    return np.concatenate([np.zeros(0, np.int32), *found])
