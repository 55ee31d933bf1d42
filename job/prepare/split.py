"""Holding out rows for validation."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

#: Rows from which some are held out when VALIDATION_FRACTION is not set, and the share.
DEFAULT_FROM_ROWS = 50
DEFAULT_FRACTION = 0.05


def held_out(
    ids: Sequence[str], speakers: Sequence[str], *, seed: int, fraction: float | None, most: int | None
) -> set[str]:
    """Ids of the rows to validate on.

    The rows are ranked by a hash of the seed and their id, and the first `fraction` of them (rounded down, at most
    `most`) are taken. So the choice depends on neither the order of the rows nor on the other rows, except at the
    rank where it stops: new data does not move old rows from one split to the other and back. A row that is the last
    one of its speaker to train on is passed over.

    Args:
        ids: unique row ids.
        speakers: the speaker of each row.
        seed: SEED.
        fraction: VALIDATION_FRACTION; None is 0.05 from 50 rows on, and none below.
        most: MAX_EVAL_SAMPLES.
    """
    if fraction is None:
        fraction = DEFAULT_FRACTION if len(ids) >= DEFAULT_FROM_ROWS else 0.0
    wanted = int(fraction * len(ids) + 1e-9)
    if most is not None:
        wanted = min(wanted, most)
    left = Counter(speakers)
    chosen: set[str] = set()
    for index in sorted(range(len(ids)), key=lambda i: _rank(seed, ids[i])):
        if len(chosen) == wanted:
            break
        if left[speakers[index]] > 1:
            left[speakers[index]] -= 1
            chosen.add(ids[index])
    return chosen


def _rank(seed: int, row_id: str) -> bytes:
    return hashlib.sha256(f"{seed}:{row_id}".encode()).digest()
