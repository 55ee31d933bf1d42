"""One recording under two texts: rows whose codes are equal and whose words are not. At least one of them is wrong.

Which one cannot be known, so all of them are left out. Such rows come of a recording that was copied to another name,
written twice by an export, or taken for a row whose own was missing.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from job.dataset.prepared import SPLITS
from job.prepare.leaving_out import LeftOut
from job.text.words import bare

#: Reason of rows that are left out, and warning of rows that are kept all the same.
REASON = "same_recording"
#: Frames that must differ from the one before them: short and silent recordings may well have the same codes.
FEWEST_CHANGES = 4
#: Share of rows with codes of another row over which the audio column is wrong rather than some rows: the gate says so.
MOST = 0.5

#: What is noted of a usable row, 37 bytes.
_NOTED: dict[str, type[Any]] = {
    "split": np.uint8,
    "position": np.int64,
    "number": np.int64,
    "source": np.int32,
    "digest": np.uint64,
    "words": np.uint64,
}


class Recordings:
    """Which recording and which words each usable row has, noted while shards pass by."""

    def __init__(self) -> None:
        self._sources: dict[str, int] = {}
        self._parts: dict[str, list[NDArray[Any]]] = {name: [np.zeros(0, kind)] for name, kind in _NOTED.items()}
        self._digests: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]

    def add(self, split: str, table: pa.Table) -> None:
        """Note the usable rows of a shard (`store.shard_schema`) whose recordings can be told from others."""
        table = table.filter(table["reason"].is_null())
        self._digests.append(table["digest"].to_numpy())
        table = table.filter(pa.array(_changes(table) >= FEWEST_CHANGES))
        values = {
            "split": np.full(len(table), SPLITS.index(split)),
            "source": [self._sources.setdefault(one, len(self._sources)) for one in table["source"].to_pylist()],
            "words": [words_of(text) for text in table["text"].to_pylist()],
        }
        for name, kind in _NOTED.items():
            given = values[name] if name in values else table[name].to_numpy()
            self._parts[name].append(np.asarray(given, dtype=kind))

    def compare(self) -> LeftOut:
        """The rows of one recording and different words; none where most rows repeat another's recording."""
        digests = np.concatenate(self._digests)
        if len(digests) - len(np.unique(digests)) > MOST * len(digests):
            return LeftOut.nothing(REASON)
        noted = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        order = np.argsort(noted["digest"], kind="stable")
        starts = np.flatnonzero(np.diff(noted["digest"][order], prepend=~noted["digest"][order[:1]]))
        words = noted["words"][order]
        others = np.full(len(order), -1)  # of each row, the first one of its recording that has other words
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
    """(rows,) how many frames of each row's codes differ from the frame before them."""
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
    """64 bits of a hash of the letters and digits of a text: case, punctuation and spaces make no other words."""
    return int.from_bytes(hashlib.sha256(bare(text).encode("utf-8", "surrogatepass")).digest()[:8], "big")
