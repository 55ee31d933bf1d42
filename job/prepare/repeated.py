"""Warn of rows with the same text and recordings of very different length: one text may belong to another row.

A text pasted into the wrong row can pass the length check if the recording there is not much longer or shorter. But the
text is then in the data twice, with recordings of different length. They may also be two takes, one of them drawn out,
so such rows are kept with a warning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from job.prepare.conflicts import words_of
from job.prepare.leaving_out import LeftOut
from job.prepare.noted import Noted

#: Warning of the rows.
REASON = "repeated_text"
#: Fewest letters of a text to compare: a short one may be spoken at any length.
FEWEST_LETTERS = 20
#: Ratio of the longest to the shortest recording of a text by one speaker above which its rows get a warning.
LONGER = 1.3
#: Share of rows with a repeated text above which the corpus repeats sentences on purpose (takes, moods, speeds), so
#: that lengths are not informative.
MOST = 0.1

#: Columns collected per usable row with a long enough text (29 bytes).
_NOTED: dict[str, type[Any]] = {
    "split": np.uint8,
    "position": np.int64,
    "said": np.uint64,
    "speaker": np.int32,
    "heard": np.float64,
}


class Texts:
    """Collect the text and the length of the recording of each usable row, shard by shard."""

    def __init__(self) -> None:
        self._speakers: dict[str, int] = {}
        self._noted = Noted(_NOTED)

    def add(self, split: str, table: pa.Table) -> None:
        """Add the usable rows of a shard (`store.shard_schema`) that have long enough texts."""
        usable = table["reason"].is_null().to_numpy() & (table["letters"].to_numpy() >= FEWEST_LETTERS)
        table = table.filter(pa.array(usable))
        values = {
            "said": [words_of(text) for text in table["text"].to_pylist()],
            "speaker": [self._speakers.setdefault(one, len(self._speakers)) for one in table["speaker"].to_pylist()],
        }
        self._noted.add(split, table, values)

    def compare(self) -> LeftOut:
        """Find rows with the same speaker and text but very different lengths of recording; for warnings only."""
        noted = self._noted.columns()
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
