"""Holding out rows for validation."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

#: Rows from which some are held out when VALIDATION_FRACTION is not set, and the share.
DEFAULT_FROM_ROWS = 50
DEFAULT_FRACTION = 0.05


def held_out(
    ranks: NDArray[np.uint64], speakers: NDArray[np.int32], *, fraction: float | None, most: int | None
) -> NDArray[np.bool_]:
    """Which rows to validate on.

    The rows are ranked by a hash of the seed and their id, and the first `fraction` of them (rounded down, at most
    `most`) are taken. So the choice depends on neither the order of the rows nor on the other rows, except at the
    rank where it stops: new data does not move old rows from one split to the other and back. A row that is the last
    one of its speaker to train on is passed over.

    Args:
        ranks: (n,) `rank` of each row.
        speakers: (n,) number of each row's speaker, from 0.
        fraction: VALIDATION_FRACTION; None is 0.05 from 50 rows on, and none below.
        most: MAX_EVAL_SAMPLES.

    Returns:
        (n,) true for the rows to validate on.
    """
    if fraction is None:
        fraction = DEFAULT_FRACTION if len(ranks) >= DEFAULT_FROM_ROWS else 0.0
    wanted = int(fraction * len(ranks) + 1e-9)
    if most is not None:
        wanted = min(wanted, most)
    left = np.bincount(speakers) if len(speakers) else np.zeros(0, dtype=np.int64)
    chosen = np.zeros(len(ranks), dtype=bool)
    count = 0
    for row in np.argsort(ranks, kind="stable"):
        if count == wanted:
            break
        if left[speakers[row]] > 1:
            left[speakers[row]] -= 1
            chosen[row] = True
            count += 1
    return chosen


def rank(seed: int, row_id: str) -> int:
    """Where a row stands when rows are held out: 64 bits of a hash of SEED and the row's id."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{row_id}".encode()).digest()[:8], "big")
