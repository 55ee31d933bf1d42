"""The order in which rows are trained: shuffled batches of an epoch, a pure function of seed and epoch."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from job.core.threads import in_order
from job.loss.packing import pack_in_windows
from job.loss.rows import Rows

A = TypeVar("A")
B = TypeVar("B")

#: Batches' worth of rows sorted by length together: enough for batches of similar lengths, few enough to keep the order
#: random.
SORTING_WINDOW = 50


class Order(Sequence[list[int]]):
    """Sequence of batches of row numbers, at 8 bytes per row: lists are created on access."""

    def __init__(self, batches: Iterable[Sequence[int]], shuffle: Callable[[int], NDArray[np.int64]]) -> None:
        lengths: list[int] = []

        def rows() -> Iterator[int]:
            for batch in batches:
                lengths.append(len(batch))
                yield from batch

        self._rows = np.fromiter(rows(), dtype=np.int64)
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._shuffled = shuffle(len(lengths))

    def __len__(self) -> int:
        return len(self._shuffled)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...

    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...

    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        batch = self._shuffled[index]
        end = self._ends[batch]
        found: list[int] = self._rows[end - self._lengths[batch] : end].tolist()
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


def admitted(rows: Rows, curriculum: str | None, progress: float) -> NDArray[np.int64]:
    """Select the rows that an epoch trains on under a curriculum.

    Args:
        rows: all rows.
        curriculum: `length` (short ones first), `source` (in the order of the data), or None for all rows.
        progress: share of the run completed at the epoch's start: below 1/4 the first third of the rows is used, below
            1/2 two thirds, then all.
    """
    if curriculum is None or progress >= 0.5:
        return np.arange(len(rows))
    order = np.arange(len(rows))
    if curriculum == "length":
        order = np.argsort([rows.length(row) for row in range(len(rows))], kind="stable")
    share = 1 / 3 if progress < 0.25 else 2 / 3
    return np.sort(order[: max(1, round(share * len(rows)))])


def epoch_order(
    rows: Rows,
    *,
    epoch: int,
    seed: int,
    batch_size: int,
    tokens_per_batch: int | None = None,
    only: NDArray[np.int64] | None = None,
) -> Order:
    """Order one epoch: shuffled batches of row numbers, over all rows or `only` some.

    Rows are shuffled and then, window by window, either packed into batches of at most `tokens_per_batch` positions (in
    this epoch's layouts), or sorted by length and split into batches of `batch_size` rows. Then batches are shuffled.
    """
    random = np.random.default_rng([seed, epoch])
    order = np.asarray(random.permutation(len(rows) if only is None else only), dtype=np.int64)
    if tokens_per_batch is not None:
        lengths = np.zeros(len(rows), dtype=np.int64)
        for row in order:
            lengths[row] = rows.positions(int(row), epoch)
        return Order(pack_in_windows(array("q", order.tobytes()), lengths, tokens_per_batch), random.permutation)
    return Order(_by_length(order, rows, batch_size), random.permutation)


def _by_length(order: NDArray[np.int64], rows: Rows, batch_size: int) -> Iterator[list[int]]:
    """Yield batches of rows of similar length, so that steps need similar time and memory."""
    window = SORTING_WINDOW * batch_size
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window].tolist(), key=rows.length)
        yield from (part[i : i + batch_size] for i in range(0, len(part), batch_size))


def ahead(inputs: Iterable[A], build: Callable[[A], B]) -> Iterator[tuple[A, B]]:
    """Yield (input, build(input)) in order; a thread prefetches up to two while the caller works on the last one."""
    yield from in_order(inputs, lambda one: (one, build(one)), workers=1, name="batches")
