"""Columns of a split as flat arrays, which take only a few bytes of memory per row; does not need torch."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

#: Frames of the longest reference clip for cloning in training (about 15 s at 12.5 frames per second).
LONGEST_REFERENCE = 188
#: Number of texts tokenized at a time.
TOKENIZED_TOGETHER = 1000


class Tokens:
    """Token ids of many texts in one array; a row without a text has none. `lengths` is (rows,)."""

    def __init__(self, tokenize: Any, texts: pa.ChunkedArray, template: Callable[[str], str]) -> None:
        ids = array("i")
        self.lengths = np.zeros(len(texts), dtype=np.int32)
        for start in range(0, len(texts), TOKENIZED_TOGETHER):
            some = texts.slice(start, TOKENIZED_TOGETHER).to_pylist()
            said = [place for place, text in enumerate(some, start) if text]
            for row, tokens in zip(said, tokenize([template(text) for text in some if text]), strict=True):
                self.lengths[row] = len(tokens)
                ids.extend(tokens)
        self._ids = np.frombuffer(ids, dtype=np.int32)
        self._ends = np.cumsum(self.lengths, dtype=np.int64)

    def __getitem__(self, row: int) -> NDArray[np.int64]:
        end = self._ends[row]
        return self._ids[end - self.lengths[row] : end].astype(np.int64)


class Codes:
    """Codes of many rows, read from the memory-mapped column in place. `lengths` is (rows,), in frames."""

    def __init__(self, column: pa.ChunkedArray, codebooks: int) -> None:
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        self._offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        # `values` ignores the slice's offset, and the list offsets are relative to the unsliced values.
        self._frames = [chunk.values.values.to_numpy()[chunk.values.offset * codebooks :] for chunk in chunks]
        self._frames = [
            values[: len(values) // codebooks * codebooks].reshape(-1, codebooks) for values in self._frames
        ]
        self._starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
        self.lengths = np.concatenate(
            [np.zeros(0, dtype=np.int32), *(np.diff(offsets).astype(np.int32) for offsets in self._offsets)]
        )

    def __getitem__(self, row: int) -> NDArray[np.int16]:
        """Codes of a row, (frames, codebooks)."""
        chunk = int(np.searchsorted(self._starts, row, "right")) - 1
        first = row - int(self._starts[chunk])
        start, end = self._offsets[chunk][first : first + 2]
        frames: NDArray[np.int16] = self._frames[chunk][start:end]
        return frames


class Companions:
    """Reference rows for cloning: same speaker, different text, and short enough for a prompt."""

    def __init__(self, speakers: NDArray[np.int32], frames: NDArray[np.int32], texts: pa.ChunkedArray) -> None:
        short = np.flatnonzero(frames <= LONGEST_REFERENCE).astype(np.int32)
        self._said = np.zeros(len(frames), dtype=np.uint64)
        for start in range(0, len(texts), TOKENIZED_TOGETHER):
            some = texts.slice(start, TOKENIZED_TOGETHER).to_pylist()
            self._said[start : start + len(some)] = [_digest(text) for text in some]
        # `_order` groups rows by speaker, speaker n's from `_bounds[n]` on, and within a speaker by text.
        of_short = speakers[short]
        self._order = short[np.lexsort((short, self._said[short], of_short))]
        counts = np.bincount(of_short, minlength=1) if len(short) else np.zeros(1, dtype=np.int64)
        self._bounds = np.concatenate([[0], np.cumsum(counts)])
        self._speakers = speakers

    def draw(self, row: int, random: np.random.Generator) -> int | None:
        """Draw a row to clone `row` from, uniformly at random; None if there is none."""
        speaker = int(self._speakers[row])
        if speaker + 1 >= len(self._bounds):
            return None
        group = self._order[self._bounds[speaker] : self._bounds[speaker + 1]]
        # Skip the row itself and its augmented copies (AUGMENT_...), which have the same text.
        said = self._said[group]
        first, end = np.searchsorted(said, self._said[row], "left"), np.searchsorted(said, self._said[row], "right")
        others = len(group) - int(end - first)
        if not others:
            return None
        drawn = int(random.integers(others))
        return int(group[drawn if drawn < first else drawn + int(end - first)])


def numbered(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int32]]:
    """Dictionary-encode a string column: its distinct values, and each row's index into them, (rows,)."""
    values = pc.unique(column)
    numbers = pc.index_in(column, value_set=values)
    return values.to_pylist(), np.concatenate(
        [np.zeros(0, dtype=np.int32), *(chunk.to_numpy() for chunk in numbers.chunks)]
    )


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
