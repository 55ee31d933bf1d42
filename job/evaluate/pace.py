"""How long a text takes to say: at anybody's pace, or at that of a voice whose recordings are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from job.text.letters import letters

#: Letters a second that nobody exceeds, in any language, and that nobody is slower than.
FASTEST, SLOWEST = 30.0, 4.0
#: Time that is granted beyond a proportion, s: a short text may be drawn out.
MORE = 0.1
#: The same where only anybody's pace is known.
MORE_FOR_ANYBODY = 2.0
#: Recordings from which a voice's pace is known, and most that are looked at.
FEWEST, MOST = 5, 300
#: Times as fast or slow as expected that a voice may be, within which its own recordings' spread decides. Below the
#: upper one half of a text and double speed are still heard.
LEAST_FACTOR, MOST_FACTOR = 1.5, 1.85
#: Share of the recordings (in per cent) whose deviation is looked at, and how much more is granted (of its logarithm).
MOST_OF_THEM, MORE_THAN_THEM = 98.0, 1.25
#: Seconds that a recording of a voice has around its text, where they are not known from texts of different lengths.
AROUND = 0.3


@dataclass(frozen=True)
class Pace:
    """A voice's own: seconds = around + per_letter * letters, give or take a factor."""

    around: float
    per_letter: float
    factor: float

    def bounds(self, text: str) -> tuple[float, float]:
        """Shortest and longest time for a text, s."""
        expected = self.around + self.per_letter * letters(text)
        return expected / self.factor, expected * self.factor + MORE


def bounds(text: str, pace: Pace | None = None) -> tuple[float, float]:
    """Shortest and longest time for a text, s; without a voice's own `pace` that of the fastest and slowest people.

    A text without letters may take any time.
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
    """The pace of a voice by its recordings; None for too few of them, or if they have nothing to do with the texts."""
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
