"""Choose the rows to hold out for validation."""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np
from numpy.typing import NDArray

#: Defaults if VALIDATION_FRACTION is not set: fewest rows for any to be held out, and the share held out.
DEFAULT_FROM_ROWS = 50
DEFAULT_FRACTION = 0.05


def held_out(
    ranks: NDArray[np.uint64],
    digests: NDArray[np.uint64],
    speakers: NDArray[np.int32],
    *,
    fraction: float | None,
    most: int | None,
) -> NDArray[np.bool_]:
    """Choose the rows to hold out for validation.

    Rows with the same text or the same codes stay together: validating on a sentence from the training data would be
    meaningless. The groups are ranked by a hash of the seed and their text, and the first ones that fit into `fraction`
    of the rows (rounded down, at most `most`) are taken. So the choice depends neither on the order of the rows nor on
    the other rows, except for the rank at which it stops: new data does not move old rows back and forth between the
    splits. A group that would remove a speaker's last row from training is skipped.

    Args:
        ranks: (n,) `rank` of each row's text.
        digests: (n,) hash of each row's codes.
        speakers: (n,) number of each row's speaker, from 0.
        fraction: VALIDATION_FRACTION; None means 0.05 for 50 rows or more, and 0 for fewer.
        most: MAX_EVAL_SAMPLES.

    Returns:
        (n,) true for the rows to hold out. If every text has more rows than may be held out, rows whose text is also in
        the training data are taken, but never rows whose codes are.
    """
    if fraction is None:
        fraction = DEFAULT_FRACTION if len(ranks) >= DEFAULT_FROM_ROWS else 0.0
    wanted = int(fraction * len(ranks) + 1e-9)
    if most is not None:
        wanted = min(wanted, most)
    if wanted == 0:
        return np.zeros(len(ranks), dtype=bool)
    chosen = _first_groups(_joined(ranks, digests), speakers, wanted)
    return chosen if chosen.any() else _first_groups(digests ^ ranks.min(), speakers, wanted)


def rank(seed: int, text: str) -> int:
    """Rank of a text for `held_out`: 64-bit hash of SEED and the text, ignoring case and spacing."""
    key = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _joined(ranks: NDArray[np.uint64], digests: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Group (n,): the smallest rank among all rows linked to a row, directly or indirectly, by rank or digest."""
    ties = [np.unique(values, return_inverse=True)[1] for values in (ranks, digests)]
    joined = ranks
    while True:
        before = joined
        for numbers in ties:
            smallest = np.full(numbers.max() + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
            np.minimum.at(smallest, numbers, joined)
            joined = smallest[numbers]
        if np.array_equal(joined, before):
            return joined


def _first_groups(groups: NDArray[np.uint64], speakers: NDArray[np.int32], wanted: int) -> NDArray[np.bool_]:
    """Mask of the rows of the first groups, in ascending order, that together have at most `wanted` rows."""
    left = np.bincount(speakers)
    order = np.argsort(groups, kind="stable")
    chosen = np.zeros(len(groups), dtype=bool)
    count = 0
    starts = np.flatnonzero(np.diff(groups[order], prepend=~groups[order[:1]]))
    for start, end in zip(starts, np.append(starts[1:], len(order)), strict=True):
        if count == wanted:
            break
        if count + end - start > wanted:
            continue
        rows = order[start:end]
        names, taken = np.unique(speakers[rows], return_counts=True)
        if (left[names] > taken).all():
            left[names] -= taken
            chosen[rows] = True
            count += int(end - start)
    return chosen
