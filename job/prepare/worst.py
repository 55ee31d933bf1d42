"""Select the rows to listen to first: for each reason and warning, the ten rows farthest beyond the limit."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from job.dataset.prepared import SPLITS
from job.prepare import wrong_words
from job.prepare.quality import Tally
from job.prepare.thresholds import LIMITS
from job.prepare.wrong_words import Words

#: Rows shown per kind.
MOST = 10
#: Kinds that have no limit in the table -> (figure, sign with which a higher value is worse).
_OTHERS = {"no_speech": ("speech", -1.0), "little_speech": ("speech", -1.0), "long_pause": ("pause", 1.0)}
_COLUMNS = ("id", "text", "audio", "start", "end", "number", "source", "reason", "detail", "warnings", "position")


class Worst:
    """Collect the worst rows of each kind, shard by shard. Rows of other voices, from the tally, are one more kind.

    Args:
        tally: the statistics of all rows.
        words: what was heard in the rows, which is shown with each.
    """

    def __init__(self, tally: Tally, words: Words) -> None:
        self._words = words
        self._kinds: dict[str, tuple[int, list[tuple[float, int, dict[str, Any]]]]] = {}
        self._seen = 0
        at = tally.other_voices
        pairs = zip(tally["source"][at].tolist(), tally["position"][at].tolist(), strict=True) if at else ()
        self._other_voices = {(SPLITS[source], position) for source, position in pairs}

    def add(self, split: str, table: pa.Table) -> None:
        """Add a shard as yielded by `Admitted.tables`."""
        mine = {position for of, position in self._other_voices if of == split}
        others = np.isin(table["position"].to_numpy(), sorted(mine)) if mine else np.zeros(len(table), bool)
        warned = pc.greater(pc.list_value_length(table["warnings"]), 0).to_numpy(zero_copy_only=False)
        hit = warned | table["reason"].is_valid().to_numpy(zero_copy_only=False) | others
        figures = {limit.figure for limit in LIMITS} | {name for name, _ in _OTHERS.values()}
        for row in table.filter(pa.array(hit)).select([*_COLUMNS, *sorted(figures)]).to_pylist():
            self._seen += 1
            kinds = [row["reason"]] if row["reason"] else list(row["warnings"])
            kinds += ["other_voice"] if not row["reason"] and row["position"] in mine else []
            for kind in kinds:
                count, rows = self._kinds.get(kind, (0, []))
                place = (split, row["position"])
                bad = (self._words.rate(place) or 0.0) if kind == wrong_words.REASON else _badness(kind, row)
                rows.append((-bad, self._seen, {**_shown(split, row), "heard": self._words.heard(place)}))
                rows.sort(key=lambda one: one[:2])
                self._kinds[kind] = count + 1, rows[:MOST]

    def kinds(self) -> dict[str, dict[str, Any]]:
        """Kind -> `count` and `rows`, worst first; kinds of rejected rows come first."""
        order = sorted(self._kinds, key=lambda kind: (not self._kinds[kind][1][0][2]["left_out"], kind))
        return {
            kind: {"count": self._kinds[kind][0], "rows": [row for _, _, row in self._kinds[kind][1]]} for kind in order
        }


def _badness(kind: str, row: dict[str, Any]) -> float:
    """Sort key for the rows of a kind: larger is worse; 0 where there is no figure."""
    sides = [(limit.figure, -1.0 if limit.below else 1.0) for limit in LIMITS if limit.reason == kind]
    values = [side * (abs(row[name]) if name == "dc" else row[name]) for name, side in sides if row[name] is not None]
    if not sides and kind in _OTHERS and row[_OTHERS[kind][0]] is not None:
        values = [_OTHERS[kind][1] * row[_OTHERS[kind][0]]]
    return max((value for value in values if value == value), default=0.0)


def _shown(split: str, row: dict[str, Any]) -> dict[str, Any]:
    audio = os.fsdecode(row["audio"]) if row["audio"] is not None else None
    names = ("id", "text", "start", "end", "number", "source", "detail")
    why = row["detail"] or ", ".join(row["warnings"])
    return {"split": split, "audio": audio, "left_out": bool(row["reason"]), "why": why, **{n: row[n] for n in names}}
