"""Detect texts that are too long or too short for their recordings, compared with the other rows of the corpus.

Each row has a speaking rate. Within one language the rates lie close together; an outlier has the text of another
recording, two sentences where one was spoken, or half of what was spoken.

The model, all in logarithms: seconds of sound = (letters + some) / rate. The `some` letters stand for the time
that every clip takes, however short. The tolerance follows from the deviations of the other rows, and is wider for
short clips, where one drawn-out vowel is half of the sound. All estimates use medians, so that wrong rows do not
distort the measure that they are judged by.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = NDArray[np.int32]

#: Fewest rows of a language that can be compared with each other.
FEWEST = 20
#: Letters per second outside of which nobody speaks, in any language: the bounds if too few rows can be compared. The
#: lower one applies to more than `SURE_SECONDS` of sound: a word may be drawn out, and a pause may be long.
ANYBODY = (1.0, 32.0)
SURE_SECONDS = 4.0

#: Candidates for the extra letters per clip: the usual value first; another is chosen only if it reduces the spread by
#: more than chance does (to under `_CLOSER`). Rows that arrived encoded include silence.
_EXTRA, _CLOSER = (3.0, 1.0, 5.0, 9.0, 15.0), 0.96
#: Expected deviations of one speaker: variation of the rate (as a share), seconds of drawn-out sounds or pauses, and
#: letters that are not spoken, or sounds without a letter.
_RATE, _PAUSE, _SPELLING = 0.12, 0.09, 1.2
#: Lower bound on the estimated spread, as a share of the expected one; and number of imaginary rows with the expected
#: spread that are added to a corpus's own.
_EVENEST, _EXPECTED_ROWS = 0.9, 10
#: Largest allowed deviation of a row, in standard deviations.
_DEVIATIONS = 2.8
#: If more than the share `_TAIL` of the rows exceed the bound but thin out beyond it, they are the tail of correct rows
#: (pauses, drawn-out words) and not wrong texts: the bound is widened in steps, to at most `_WIDEST` times its original
#: value. Rows thin out if their excess has a standard deviation of at least `_THINNING` of its mean (1 for an
#: exponential tail, 0.6 for texts of twice or half the length), or a mean of less than `_CLOSE` of the bound.
_TAIL, _THINNING, _CLOSE, _STEP, _WIDEST = 0.002, 0.85, 0.2, 1.05, 2.5
#: A speaker's own rate is shrunk towards the others' as if these counted this many rows, and differs from theirs by at
#: most this much (natural logarithm: a factor of 1.5).
_SPEAKER_ROWS, _SPEAKER_MOST = 8, 0.4


def bounds(letters: Floats, heard: Floats, language: Numbers, speaker: Numbers) -> tuple[Floats, Floats]:
    """Compute the range of letters per second that is plausible for each row.

    Args:
        letters: (n,) lengths of the texts (`letters.letters`).
        heard: (n,) seconds of sound without silence at the ends, positive.
        language: (n,) language numbers: rows with the same number are compared with each other.
        speaker: (n,) speaker numbers.

    Returns:
        The lowest and the highest plausible rate of each row, (n,) each. Rows outside them do not fit their text.
    """
    low = np.where(heard > SURE_SECONDS, ANYBODY[0], 0.0)
    high = ANYBODY[1] * (heard + 0.3) / heard
    for rows in groups(language):
        if len(rows) >= FEWEST:
            low[rows], high[rows] = _compared(letters[rows], heard[rows], speaker[rows])
    return low, high


def groups(numbers: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    """Indices (in order) of each distinct value of `numbers` (n,)."""
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=numbers[order[:1]] - 1))
    return np.split(order, starts[1:]) if len(order) else []


def extra_letters(letters: Floats, heard: Floats) -> float:
    """Estimate a clip's fixed time in letters: the value with which the rates lie closest together."""
    logs = np.log(heard)
    best, least = _EXTRA[0], np.inf
    for extra in _EXTRA:
        off = logs - np.log(letters + extra)
        spread = float(np.median(np.abs(off - np.median(off))))
        if spread < least * _CLOSER:
            best, least = extra, spread
    return best


def _compared(letters: Floats, heard: Floats, speaker: Numbers) -> tuple[Floats, Floats]:
    """Bounds (n,) for the rows of one language, from the deviations of all of them."""
    padded = letters + extra_letters(letters, heard)
    off = np.log(heard) - np.log(padded)
    expected = np.median(off) + np.zeros(len(off))
    expected += _speakers(off - expected, speaker)
    seconds = padded * np.exp(expected)
    width = np.sqrt(_RATE**2 + (_PAUSE / seconds) ** 2 + (_SPELLING / (letters + 1.0)) ** 2)
    deviations = (off - expected) / width
    slow, fast = _bound(deviations), _bound(-deviations)
    return letters / (seconds * np.exp(slow * width)), letters / (seconds * np.exp(-fast * width))


def _speakers(off: Floats, speaker: Numbers) -> Floats:
    """How much slower (negative: faster) each row's speaker is than the others, (n,); shrunk to 0 for few rows."""
    slower = np.zeros(len(off))
    order = np.lexsort((off, speaker))
    starts = np.flatnonzero(np.diff(speaker[order], prepend=-1))
    if len(starts) < 2:
        return slower
    counts = np.diff(starts, append=len(order))
    middle = off[order[starts + counts // 2]] / 2 + off[order[starts + (counts - 1) // 2]] / 2
    middle = np.clip(middle * counts / (counts + _SPEAKER_ROWS), -_SPEAKER_MOST, _SPEAKER_MOST)
    slower[order] = np.repeat(middle, counts)
    return slower


def _bound(deviations: Floats) -> float:
    """Largest positive deviation allowed for a row, in units of the expected width.

    Estimated from the positive deviations: their median gives a first estimate, those within its bound refine it.
    """
    count = len(deviations)
    upwards = np.sort(deviations[deviations > 0])
    sigma = first = float(np.median(upwards)) / 0.6745 if len(upwards) else 0.0
    for _ in range(5):
        within = upwards[: np.searchsorted(upwards, _DEVIATIONS * max(sigma, 1e-9))]
        if len(within):
            sigma = min(float(np.sqrt(np.mean(within**2))) / 0.974, 1.5 * first)
    weight = len(upwards) / (len(upwards) + _EXPECTED_ROWS)
    sigma = max(_EVENEST, np.sqrt(weight * sigma**2 + (1 - weight)))
    bound = widest = float(_DEVIATIONS * sigma * (1 + 6 / count))
    widest *= _WIDEST
    while bound < widest:
        over = upwards[np.searchsorted(upwards, bound, side="right") :] - bound
        if len(over) <= _TAIL * count:
            break
        mean = float(over.mean())
        if mean >= _CLOSE * bound and float(over.std()) < _THINNING * mean:
            break
        bound *= _STEP
    return bound
