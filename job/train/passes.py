"""How the micro-batches of a step are computed: several in one pass, or one in several, by what the memory allows.

On a GPU small batches wait for the host, which launches thousands of kernels whatever the batch: on an H200 a pass over
8 clips took 392 ms, of which the GPU worked 58, and one over 45 clips 505 ms (benchmarks/RESULTS.md). So micro-batches
that belong to the same optimizer step (GRADIENT_ACCUMULATION_STEPS) are computed together where they fit. As all terms
of a step's loss have the same weight, the result is the same up to rounding, and up to the random numbers of dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from job.config.settings import Settings

#: Most positions of micro-batches that are computed together on a GPU.
JOINED = 8192
#: The same in evaluation, which has no way to try again with less memory.
JOINED_IN_EVALUATION = 2048


class Pass(NamedTuple):
    """One forward and backward pass.

    Attributes:
        part: number of the (first) micro-batch, from which random numbers are drawn.
        piece: number of the piece of that micro-batch.
        rows: the samples.
        counts: whether its loss counts; it does not if only the other processes' collectives need it.
    """

    part: int
    piece: int
    rows: list[int]
    counts: bool


@dataclass(frozen=True)
class Division:
    """How the micro-batches of a step are divided into passes.

    Attributes:
        joined: most positions of micro-batches computed in one pass; 0 computes each by itself.
        pieces: passes per micro-batch, if `joined` is 0; more than 1 after memory has run out.
    """

    joined: int = 0
    pieces: int = 1

    def passes(self, parts: Sequence[tuple[int, list[int], bool]], length: Callable[[int], int]) -> list[Pass]:
        """Divide micro-batches into passes.

        Args:
            parts: number, rows, and whether it counts, of each micro-batch of a process.
            length: positions of a row.
        """
        if self.joined:
            return [
                Pass(parts[group[0]][0], 0, [row for n in group for row in parts[n][1]], parts[group[0]][2])
                for group in join([rows for _, rows, _ in parts], length, self.joined)
            ]
        return [
            Pass(number, piece, cut.tolist(), counts)
            for number, rows, counts in parts
            for piece, cut in enumerate(np.array_split(np.asarray(rows), min(self.pieces, len(rows))))
        ]

    def smaller(self, shares: Sequence[Sequence[list[int]]], length: Callable[[int], int]) -> Division | None:
        """The next smaller division, after memory ran out; None if every pass has a single sample already.

        Args:
            shares: the rows of each micro-batch, for each process: all processes must come to the same division.
            length: positions of a row.
        """
        joined = self.joined
        before = [join(share, length, joined) for share in shares]
        while joined:
            joined //= 2
            if [join(share, length, joined) for share in shares] != before:
                return replace(self, joined=joined)
        most = max(len(rows) for share in shares for rows in share)
        return None if self.pieces >= most else Division(0, min(2 * self.pieces, most))

    def __str__(self) -> str:
        if self.joined:
            return f"at most {self.joined} positions at a time"
        return f"in {self.pieces} pieces" if self.pieces > 1 else "one micro-batch at a time"


def join(parts: Sequence[list[int]], length: Callable[[int], int], most: int) -> list[list[int]]:
    """Group consecutive micro-batches of at most `most` positions in all; a longer one is a group of its own.

    Args:
        parts: rows of each.
        length: positions of a row.

    Returns:
        groups of indices into `parts`, in order.
    """
    groups: list[list[int]] = []
    room = 0
    for index, rows in enumerate(parts):
        positions = sum(map(length, rows))
        if groups and positions <= room:
            groups[-1].append(index)
            room -= positions
        else:
            groups.append([index])
            room = most - positions
    return groups


def most_joined(settings: Settings, device: str, *, sharded: bool) -> int:
    """Most positions of micro-batches that these settings let compute together on a kind of device; 0 for none.

    A sharded model is computed in collectives, so all processes must take equally many passes; TOKENS_PER_BATCH says
    how many positions a pass may have; a CPU gains nothing.
    """
    return 0 if device != "cuda" or sharded or settings.tokens_per_batch else JOINED
