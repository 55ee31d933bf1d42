"""Plausible durations of a text: for any speaker, or at the pace measured from a voice's recordings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from job.text.letters import letters

#: Highest and lowest plausible speaking rates in any language, letters per second.
FASTEST, SLOWEST = 30.0, 4.0
#: Tolerance in addition to the factor, s: a short text may be drawn out.
MORE = 0.1
#: The same tolerance when the voice's own pace is unknown.
MORE_FOR_ANYBODY = 2.0
#: Minimum number of recordings to fit a voice's pace, and the maximum used.
FEWEST, MOST = 5, 300
#: Limits of the factor by which a voice may be faster or slower than expected; in between its recordings' spread
#: decides. The upper limit is low enough that half a text, or double speed, is still detected.
LEAST_FACTOR, MOST_FACTOR = 1.5, 1.85
#: Percentile of the recordings' deviation that is used, and the factor by which its logarithm is widened.
MOST_OF_THEM, MORE_THAN_THEM = 98.0, 1.25
#: Seconds of a recording around its text, if texts are too similar in length to fit it.
AROUND = 0.3


@dataclass(frozen=True)
class Pace:
    """A voice's pace: seconds = around + per_letter * letters, within a factor."""

    around: float
    per_letter: float
    factor: float

    def bounds(self, text: str) -> tuple[float, float]:
        """Return the shortest and longest duration for a text, s."""
        expected = self.around + self.per_letter * letters(text)
        return expected / self.factor, expected * self.factor + MORE


def bounds(text: str, pace: Pace | None = None) -> tuple[float, float]:
    """Return the shortest and longest duration for a text, s; without `pace`, for the fastest and slowest speakers.

    A text without letters may have any duration.
    """
    count = letters(text)
    if not count:
        return 0.0, math.inf
    shortest, longest = count / FASTEST, MORE_FOR_ANYBODY + count / SLOWEST
    if pace is None:
        return shortest, longest
    own = pace.bounds(text)
    return max(shortest, own[0]), own[1]


def fit(texts: Sequence[str], seconds: Sequence[float]) -> Pace | None:
    """Fit a voice's pace to its recordings; None if there are too few, or they do not correlate with the texts."""
    from scipy.stats import theilslopes

    step = max(1, len(texts) // MOST)
    pairs = np.array([(letters(text), time) for text, time in zip(texts[::step], seconds[::step], strict=True)])
    pairs = pairs.reshape(-1, 2)
    pairs = pairs[(pairs > 0).all(axis=1)]
    if len(pairs) < FEWEST:
        return None
    said, took = pairs.T
    around = AROUND
    if said.max() >= 2 * said.min():
        around = min(max(float(theilslopes(took, said)[1]), 0.0), 1.0)
    per_letter = float(np.median(np.maximum(took - around, 0.1 * took) / said))
    spread = float(np.percentile(np.abs(np.log(took / (around + per_letter * said))), MOST_OF_THEM))
    if not 1 / FASTEST / 2 <= per_letter <= 2 / SLOWEST:
        return None
    return Pace(around, per_letter, min(max(math.exp(MORE_THAN_THEM * spread), LEAST_FACTOR), MOST_FACTOR))
