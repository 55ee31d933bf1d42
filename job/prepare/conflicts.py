"""Reject rows that share one recording but have different texts (equal codes, different words).

At least one of the texts is wrong; which one is unknown, so all such rows are rejected. They arise when a recording is
copied to another name, written twice by an export, or substituted for a missing one.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from job.prepare.leaving_out import LeftOut
from job.prepare.noted import Column, Noted
from job.text.words import bare

#: Reason of rejected rows, and warning of rows that are kept nevertheless.
REASON = "same_recording"
#: Fewest frames that must differ from the previous one: short or silent recordings may legitimately share codes.
FEWEST_CHANGES = 4
#: Share of rows with duplicate codes above which the audio column itself is wrong: the quality gate reports that.
MOST = 0.5

#: Columns collected per usable row (37 bytes).
_NOTED: dict[str, type[Any]] = {
    "split": np.uint8,
    "position": np.int64,
    "number": np.int64,
    "source": np.int32,
    "digest": np.uint64,
    "words": np.uint64,
}


class Recordings:
    """Collect hashes of the recording and the words of each usable row, shard by shard."""

    def __init__(self) -> None:
        self._sources: dict[str, int] = {}
        self._noted = Noted(_NOTED)
        self._digests = Column(np.uint64)

    def add(self, split: str, table: pa.Table) -> None:
        """Add the usable rows of a shard (`store.shard_schema`) whose codes change enough to identify the recording."""
        table = table.filter(table["reason"].is_null())
        self._digests.add(table["digest"].to_numpy())
        table = table.filter(pa.array(_changes(table) >= FEWEST_CHANGES))
        values = {
            "source": [self._sources.setdefault(one, len(self._sources)) for one in table["source"].to_pylist()],
            "words": [words_of(text) for text in table["text"].to_pylist()],
        }
        self._noted.add(split, table, values)

    def compare(self) -> LeftOut:
        """Find rows with the same recording and different words; none if most rows repeat another row's recording."""
        digests = self._digests.take()
        if len(digests) - len(np.unique(digests)) > MOST * len(digests):
            return LeftOut.nothing(REASON)
        noted = self._noted.columns()
        order = np.argsort(noted["digest"], kind="stable")
        starts = np.flatnonzero(np.diff(noted["digest"][order], prepend=~noted["digest"][order[:1]]))
        words = noted["words"][order]
        others = np.full(len(order), -1)  # per row, the first one with its recording and other words
        ends = np.append(starts[1:], len(order))
        for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
            like_first = words[start:end] == words[start]
            if not like_first.all():
                others[start:end] = np.where(like_first, start + int(np.argmin(like_first)), start)
        conflicting = np.flatnonzero(others >= 0)
        rows, with_others = order[conflicting], order[others[conflicting]]
        sources = list(self._sources)
        details = [
            f"the recording is the same as that of row {noted['number'][other]} ({sources[noted['source'][other]]}), "
            "and the text is another: one recording cannot say both; listen to it, give its words to one row, and its "
            "own recording to the other"
            for other in with_others
        ]
        again = np.lexsort((noted["position"][rows], noted["split"][rows]))
        return LeftOut(REASON, noted["split"][rows[again]], noted["position"][rows[again]], [details[n] for n in again])


def _changes(table: pa.Table) -> NDArray[np.int64]:
    """Count the frames of each row's codes that differ from the previous frame, (rows,)."""
    codes = table["codes"].combine_chunks()
    lengths = pc.list_value_length(codes).to_numpy(zero_copy_only=False)
    flat = codes.flatten()
    if not len(flat):
        return np.zeros(len(table), dtype=np.int64)
    frames = flat.flatten().to_numpy(zero_copy_only=False).reshape(len(flat), -1)
    differs = np.zeros(len(frames), dtype=np.int64)
    differs[1:] = (frames[1:] != frames[:-1]).any(axis=1)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    differs[starts[lengths > 0]] = 0
    sums = np.concatenate([[0], np.cumsum(differs)])
    return np.asarray(sums[ends] - sums[starts], dtype=np.int64)


def words_of(text: str) -> int:
    """64-bit hash of the letters and digits of a text, ignoring case, punctuation and spaces."""
    return int.from_bytes(hashlib.sha256(bare(text).encode("utf-8", "surrogatepass")).digest()[:8], "big")
