"""Sample packing: concatenates samples into rows, so that batches contain no padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

#: Batches' worth of samples packed together: enough to fill the rows, few enough to keep the order random.
PACKING_WINDOW = 50
#: Rows at least this full are emitted; samples in the others are packed again with the next window.
FULL = 0.97


def pack(lengths: NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Pack samples into rows of at most `capacity` positions by first-fit decreasing.

    The longest sample goes first, each into the first row with room. This uses at most 11/9 of the fewest possible
    rows, and with many short samples hardly more than the optimum (Johnson 1973). A sample longer than `capacity` gets
    a row of its own.

    Args:
        lengths: (n,) positions of each sample.
        capacity: positions per row.

    Returns:
        rows of indices into `lengths`.
    """
    capacity = min(capacity, int(lengths.sum()))  # all there is, where a number is larger than integers are
    rows: list[list[int]] = []
    room = np.zeros(len(lengths), dtype=np.int64)
    for index in np.argsort(-lengths, kind="stable"):
        fits = room[: len(rows)] >= lengths[index]
        row = int(fits.argmax()) if fits.any() else len(rows)
        if row == len(rows):
            rows.append([])
            room[row] = capacity
        rows[row].append(int(index))
        room[row] -= lengths[index]
    return rows


def pack_in_windows(order: Sequence[int], lengths: NDArray[np.int64], capacity: int) -> Iterator[list[int]]:
    """Pack a shuffled `order` window by window; samples that do not fill a row carry over into the next window.

    Args:
        order: sample numbers.
        lengths: (n,) positions of sample 0, 1, ...
        capacity: positions per row.

    Yields:
        the sample numbers of a row.
    """
    waiting: list[int] = []
    expected = max(1.0, capacity / max(1.0, float(np.mean(lengths[list(order)])))) if len(order) else 1.0
    window = max(1, round(PACKING_WINDOW * expected))
    for start in range(0, len(order), window):
        waiting += order[start : start + window]
        last = start + window >= len(order)
        rows = [[waiting[i] for i in row] for row in pack(lengths[waiting], capacity)]
        waiting = []
        for row in rows:
            if last or int(lengths[row].sum()) >= FULL * capacity:
                yield row
            else:
                waiting += row
