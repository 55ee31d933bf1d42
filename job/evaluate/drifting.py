"""Warn of a voice that gets faster or slower through a long text, beside how much its own recordings do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from job.evaluate.judges.figures import BY_NAME

#: A change of rate that is warned of in a single text: steady speech is measured to change by more in one of thirty.
ALLOWED = 0.25
#: Recordings that it takes to know how much a voice's own rate changes, and how many times as much is warned of.
FEWEST, TIMES = 3, 2.5


def warnings(
    described: Sequence[Mapping[str, Any]], said: Sequence[Mapping[str, Any]], recorded: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return a sentence for each speaker whose rate drifts through its long texts; none where all are steady.

    Args:
        described: the samples, with `speaker` and `text`.
        said: what judges say of them, in the same order.
        recorded: what judges say of the recordings, of all speakers.
    """
    own = [float(one["rate_drift"]) for one in recorded if one.get("rate_drift") is not None]
    usual, spread = 0.0, 0.0
    if len(own) >= FEWEST:
        usual, spread = float(np.mean(own)), float(np.std(own, ddof=1))
    shown = BY_NAME["rate_drift"].shown
    found = []
    for speaker in dict.fromkeys(str(one["speaker"]) for one in described):
        drifts = {
            str(one["text"]): float(told["rate_drift"])
            for one, told in zip(described, said, strict=True)
            if one["speaker"] == speaker and told.get("rate_drift") is not None
        }
        if not drifts:
            continue
        drift = float(np.mean([*drifts.values()]))
        # what is chance in one text is less so in the mean of several
        if abs(drift - usual) <= max(ALLOWED, TIMES * spread) / math.sqrt(len(drifts)):
            continue
        text, most = max(drifts.items(), key=lambda one: abs(one[1] - usual))
        way = "faster" if drift > usual else "slower"
        beside = f" ({shown(usual, sign=True)} in its recordings)" if len(own) >= FEWEST else ""
        found.append(
            f"{speaker} gets {way} through a long text: the last third against the first {shown(drift, sign=True)}"
            f"{beside}, {shown(most, sign=True)} in {text[:40]!r}; shorter texts at a time, or longer recordings, help"
        )
    return found
