"""One text under two recordings of very different length: one of them may be what another row says.

A text that was pasted into a wrong row fits the recording there well enough by length alone, if that is not much
longer or shorter. But it is then in the data twice, and its two recordings are not alike in length. It may as well be
two takes, one of them drawn out: such rows are kept with a warning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.dataset.prepared import SPLITS
from job.prepare.conflicts import words_of
from job.prepare.leaving_out import LeftOut

#: Warning of the rows.
REASON = "repeated_text"
#: Letters that a text must have: a short one may be said at any length.
FEWEST_LETTERS = 20
#: How many times as long as the shortest recording of the text by the speaker the longest must be.
LONGER = 1.3
#: Share of rows whose text another row has too, from which the corpus is made of repeated sentences (of takes, moods,
#: speeds): their lengths say nothing then.
MOST = 0.1

#: What is noted of a usable row with a text that is long enough, 29 bytes.
_NOTED: dict[str, type[Any]] = {
    "split": np.uint8,
    "position": np.int64,
    "said": np.uint64,
    "speaker": np.int32,
    "heard": np.float64,
}


class Texts:
    """Which text each usable row has and how long its recording is, noted while shards pass by."""

    def __init__(self) -> None:
        self._speakers: dict[str, int] = {}
        self._parts: dict[str, list[NDArray[Any]]] = {name: [np.zeros(0, kind)] for name, kind in _NOTED.items()}

    def add(self, split: str, table: pa.Table) -> None:
        """Note the usable rows of a shard (`store.shard_schema`) that have long enough texts."""
        usable = table["reason"].is_null().to_numpy() & (table["letters"].to_numpy() >= FEWEST_LETTERS)
        table = table.filter(pa.array(usable))
        values = {
            "split": np.full(len(table), SPLITS.index(split)),
            "said": [words_of(text) for text in table["text"].to_pylist()],
            "speaker": [self._speakers.setdefault(one, len(self._speakers)) for one in table["speaker"].to_pylist()],
        }
        for name, kind in _NOTED.items():
            given = values[name] if name in values else table[name].to_numpy()
            self._parts[name].append(np.asarray(given, dtype=kind))

    def compare(self) -> LeftOut:
        """The rows of one speaker and text whose recordings differ much in length; for warnings only."""
        noted = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        order = np.lexsort((noted["heard"], noted["speaker"], noted["said"]))
        keys = np.stack([noted[name][order].astype(np.uint64) for name in ("said", "speaker")])
        starts = np.flatnonzero(np.r_[len(order) > 0, (np.diff(keys, axis=1) != 0).any(axis=0)][: len(order)])
        ends = np.append(starts[1:], len(order))[: len(starts)]
        sizes = ends - starts
        if not len(order) or sizes[sizes > 1].sum() > max(2, MOST * len(order)):
            return LeftOut.nothing(REASON)
        heard = noted["heard"][order]
        rows = order[np.repeat(heard[ends - 1] > LONGER * heard[starts], sizes)]
        rows = rows[np.lexsort((noted["position"][rows], noted["split"][rows]))]
        return LeftOut(REASON, noted["split"][rows], noted["position"][rows], [""] * len(rows))
