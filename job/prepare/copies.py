"""Find near-duplicate recordings: the same audio at another level, through a codec, or slightly faster.

Each row's fingerprint (`job.audio.flaws`) is compared only with those in the same hash bucket. The hash is the sides of
random hyperplanes on which a fingerprint lies (locality-sensitive hashing), so that copies share some of their buckets
and no fingerprint has to be compared with all others.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.audio.flaws import PRINT_SIZE
from job.prepare.leaving_out import LeftOut
from job.prepare.noted import Noted
from job.prepare.thresholds import ALIKE, LENGTHS

#: Warnings for the later copy, and for a validation row whose recording is also in the training data.
REASON, ALSO_TRAINED = "repeated_recording", "also_in_train"
#: Share of rows that are copies above which the corpus consists of takes of the same sentences: no row gets a warning.
MOST = 0.5
#: Number of hash tables, least number of hyperplanes per table, and how many preceding rows in its bucket a row is
#: compared with.
CHESTS, FEWEST_PLANES, BEFORE = 12, 10, 4


class Prints:
    """Collect the fingerprints of all usable rows, shard by shard."""

    def __init__(self) -> None:
        self._noted = Noted({"split": np.uint8, "position": np.int64, "seconds": np.float32})
        self._prints: list[NDArray[np.int8]] = [np.zeros((0, PRINT_SIZE), np.int8)]

    def add(self, split: str, table: pa.Table) -> None:
        """Add the usable rows of a shard (`store.shard_schema`) that have a fingerprint."""
        prints = [one if one and any(one) else None for one in table["print"].to_pylist()]
        usable = table["reason"].is_null().to_numpy() & np.array([one is not None for one in prints], dtype=bool)
        table = table.filter(pa.array(usable))
        kept = [one for one, is_kept in zip(prints, usable, strict=True) if is_kept and one is not None]
        self._prints.append(np.frombuffer(b"".join(kept), np.int8).reshape(-1, PRINT_SIZE))
        self._noted.add(split, table, {})

    def compare(self) -> list[LeftOut]:
        """Find later copies, and validation rows that are also in the training data; for warnings only."""
        noted = self._noted.columns()
        first, second = self._pairs(np.concatenate(self._prints), noted["seconds"])
        if len(np.unique(second)) > MOST * len(noted["split"]):
            return [LeftOut.nothing(REASON), LeftOut.nothing(ALSO_TRAINED)]
        crosses = noted["split"][first] != noted["split"][second]
        found = []
        for reason, rows in ((REASON, np.unique(second[~crosses])), (ALSO_TRAINED, np.unique(second[crosses]))):
            order = rows[np.lexsort((noted["position"][rows], noted["split"][rows]))]
            found.append(LeftOut(reason, noted["split"][order], noted["position"][order], [""] * len(order)))
        return found

    def _pairs(
        self, prints: NDArray[np.int8], seconds: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find pairs of copies: the earlier and the later row of each, in order of splits and positions."""
        count = len(prints)
        pairs = [np.zeros((2, 0), np.int64)]
        norms = np.linalg.norm(prints.astype(np.float32), axis=1)
        planes = max(FEWEST_PLANES, int(count).bit_length())
        draw = np.random.default_rng(0)
        for _ in range(CHESTS):
            normals = draw.standard_normal((PRINT_SIZE, planes)).astype(np.float32)
            drawers = _sides(prints, normals)
            order = np.argsort(drawers, kind="stable")
            for back in range(1, BEFORE + 1):
                a, b = order[:-back], order[back:]
                same = drawers[a] == drawers[b]
                a, b = a[same], b[same]
                close = np.abs(seconds[a] - seconds[b]) <= LENGTHS * np.maximum(seconds[a], seconds[b])
                a, b = a[close], b[close]
                likeness = (prints[a].astype(np.float32) * prints[b]).sum(axis=1) / (norms[a] * norms[b])
                alike = likeness >= ALIKE
                pairs.append(np.stack([a[alike], b[alike]]))
        first, second = np.concatenate(pairs, axis=1)
        return np.minimum(first, second), np.maximum(first, second)


def _sides(prints: NDArray[np.int8], normals: NDArray[np.float32]) -> NDArray[np.int64]:
    """Hash (n,) of each fingerprint: on which sides of the hyperplanes it lies, as bits; computed in chunks of rows."""
    bits = 1 << np.arange(normals.shape[1], dtype=np.int64)
    parts = [(prints[at : at + 65_536].astype(np.float32) @ normals > 0) @ bits for at in range(0, len(prints), 65_536)]
    return np.concatenate([np.zeros(0, np.int64), *parts])
