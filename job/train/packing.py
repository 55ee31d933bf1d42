"""Which samples share a row: one after the other, so that no position of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

#: Batches' worth of samples that are packed together: enough to fill the rows, few enough to keep the order random.
PACKING_WINDOW = 50
#: Rows that are at least this full are closed; what is in the others is packed again with the next window.
FULL = 0.97


def pack(lengths: NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Put samples into rows of at most `capacity` positions, the longest first, each into the first row with room.

    First-fit decreasing uses at most 11/9 of the fewest possible rows, and with many short samples hardly more than
    that number (Johnson 1973). A sample that is longer than a row gets one of its own.

    Args:
        lengths: (n,) positions of each sample.
        capacity: positions a row.

    Returns:
        rows of indices into `lengths`.
    """
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
    """Pack a shuffled `order` window by window; what does not fill a row goes on into the next window.

    Args:
        order: sample numbers.
        lengths: (n,) positions of sample 0, 1, ...
        capacity: positions a row.

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
