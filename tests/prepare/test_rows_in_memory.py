"""What prepare keeps of each row while it compares all of them: a stated number of bytes, and no more while it does."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from job.audio.flaws import PRINT_SIZE
from job.prepare import copies, noted
from job.prepare.copies import Prints
from job.prepare.leaving_out import LeftOut


def shard(first: int, prints: np.ndarray) -> pa.Table:
    count = len(prints)
    return pa.table(
        {
            "position": np.arange(first, first + count),
            "reason": pa.nulls(count, pa.string()),
            "seconds": np.full(count, 2.0),
            "print": [one.tobytes() for one in prints],
        }
    )


def peak_of(rows: int) -> int:
    """Bytes that were in use at most while so many rows, all of them alike, were collected and compared."""
    same = np.random.default_rng(0).integers(-128, 128, (256, PRINT_SIZE)).astype(np.int8)
    Prints().add("train", shard(0, same))  # what pyarrow imports for it, which is slow to trace
    prints = Prints()
    tracemalloc.start()
    try:
        for first in range(0, rows, 256):
            prints.add("train", shard(first, same))
        assert all(not len(found.position) for found in prints.compare()), "takes of the same sentences"
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_comparing_recordings_takes_little_more_than_their_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst case, in which every row is like hundreds of others: it took over two kilobytes a row."""
    monkeypatch.setattr(copies, "ROWS_AT_ONCE", 256)
    monkeypatch.setattr(noted, "PIECE", 256)
    few, many = 2_048, 6_144
    assert (peak_of(many) - peak_of(few)) / (many - few) < 2 * PRINT_SIZE + 80


@pytest.mark.parametrize("at_once", [1, 7, 1 << 14])
def test_copies_are_found_wherever_the_parts_begin(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(copies, "ROWS_AT_ONCE", at_once)
    monkeypatch.setattr(noted, "PIECE", 3)
    prints = np.random.default_rng(0).integers(-128, 128, (40, PRINT_SIZE)).astype(np.int8)
    prints[[31, 22]] = prints[[4, 9]]
    collected = Prints()
    collected.add("train", shard(0, prints[:25]))
    collected.add("train", shard(25, prints[25:]))
    collected.add("validation", shard(0, prints[4:6]))
    repeated, crossing = collected.compare()
    assert (repeated.split.tolist(), repeated.position.tolist()) == ([0, 0], [22, 31])
    assert (crossing.split.tolist(), crossing.position.tolist()) == ([1, 1], [0, 1])


def test_rows_are_left_out_of_their_own_split_with_their_own_detail() -> None:
    details = {(0, 3): "third", (0, 300): "later", (1, 3): "held", (1, 4): "next"}
    found = LeftOut.of("bad", details)
    empty = pa.nulls(5, pa.string())
    table = pa.table({"position": np.arange(5), "reason": empty, "detail": empty})

    def marked(split: str) -> list[str | None]:
        details: list[str | None] = found.mark(split, table, "fail")["detail"].to_pylist()
        return details

    assert marked("train") == [None, None, None, "third", None]
    assert marked("validation") == [None, None, None, "held", "next"]
