"""Detect texts that are shifted against their recordings by one or more rows, or shuffled.

A table of texts that lost one row, or an export that counts from 0 in one column and from 1 in the other, pairs every
text with its neighbour's recording. Each row alone looks fine, but long texts are then paired with short recordings,
and fit the recording of the next row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from job.prepare.fit import Floats

#: Shifts to try, in rows.
SHIFTS = (-1, 1, -2, 2, -3, 3, -4, 4, -5, 5)
#: Fewest rows to check: fewer fit anything by chance.
FEWEST_SHIFTED, FEWEST_SHUFFLED = 25, 50
#: Two lengths count as different if one is longer by at least this (natural logarithm: a fifth).
_TOLD_APART = 0.2
#: Standard deviation of lengths (logarithm), and the largest score of one pair of rows for or against a shift.
_SIGMA, _MOST = 0.2, 3.0
#: Least share of the informative rows that must favour a shift; and the least share with a longer neighbour, as well as
#: with a shorter one: if lengths only grow from row to row, every text fits its neighbour.
_FOR, _EITHER_WAY = 0.75, 0.15
#: Least rank correlation of the lengths of texts and recordings once the shift is undone.
_TOGETHER = 0.5
#: Least spread (logarithm) of the lengths of texts and recordings for a correlation to be expected, and the least rank
#: correlation of matching ones.
_VARIED, _UNRELATED = 0.25, 0.4
#: Letters added to every text for the time that a clip takes besides its letters.
_EXTRA = 3.0


@dataclass(frozen=True, slots=True)
class Shift:
    """The texts of a source's rows `first` to `last` belong to the recordings `by` rows later (earlier if negative)."""

    first: int
    last: int
    by: int
    to_the_end: bool


def find_shift(letters: Floats, heard: Floats, number: NDArray[np.int64]) -> Shift | None:
    """Find a range of rows in which texts and recordings of one source are shifted against each other.

    Args:
        letters: (n,) lengths of the texts, of one language or made comparable (`centred`).
        heard: (n,) seconds of sound.
        number: (n,) numbers of the rows in their source; those of rejected rows may be missing.

    Returns:
        None if no shift fits better, or the lengths are inconclusive.
    """
    if len(number) < FEWEST_SHIFTED:
        return None
    order = np.argsort(number, kind="stable")
    number = number[order]
    said, sound = centred(letters, heard)
    said, sound = said[order], sound[order]
    found: tuple[float, Shift] | None = None
    for by in SHIFTS:
        here, there = _pairs(number, by)
        if len(here) < FEWEST_SHIFTED:
            continue
        gain = (_misfit(said[here], sound[here]) - _misfit(said[here], sound[there])) / (2 * _SIGMA**2)
        first, last, score = best_stretch(np.clip(gain, -_MOST, _MOST))
        if (found is None or score > found[0]) and _is_sure(said, sound, here[first:last], there[first:last]):
            to_the_end = last >= len(here) - 2 * abs(by)
            found = score, Shift(int(number[here[first]]), int(number[here[last - 1]]), by, to_the_end)
    return found[1] if found else None


def unrelated(letters: Floats, heard: Floats) -> float | None:
    """Rank correlation of the lengths of texts and recordings if it shows that they are shuffled; None otherwise.

    They are shuffled if there are enough rows, lengths vary, and long texts are not paired with long recordings.
    """
    if len(letters) < FEWEST_SHUFFLED:
        return None
    said, sound = centred(letters, heard)
    if min(_spread(said), _spread(sound)) < _VARIED:
        return None
    together = _rank_correlation(said, sound)
    return together if together + 2 / np.sqrt(len(said)) < _UNRELATED else None


def centred(letters: Floats, heard: Floats) -> tuple[Floats, Floats]:
    """Logarithms of the lengths, each minus its median: 0 is a typical text, or a typical recording."""
    said, sound = np.log(letters + _EXTRA), np.log(heard)
    return said - np.median(said), sound - np.median(sound)


def _pairs(number: NDArray[np.int64], by: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of all rows n (ascending numbers) for which row n + `by` exists, and the indices of those rows."""
    there = np.searchsorted(number, number + by)
    there[there == len(number)] = 0
    here = np.flatnonzero(number[there] == number + by)
    return here, there[here]


def _misfit(said: Floats, sound: Floats) -> Floats:
    return (said - sound) ** 2


def best_stretch(gain: Floats) -> tuple[int, int, float]:
    """Find the consecutive rows `first` to `last` (exclusive) with the largest sum of `gain`, and that sum."""
    sums = np.concatenate([[0.0], np.cumsum(gain)])
    lowest = np.minimum.accumulate(sums)
    last = int(np.argmax(sums - lowest))
    first = int(np.argmin(sums[: last + 1]))
    return first, last, float(sums[last] - sums[first])


def _is_sure(said: Floats, sound: Floats, here: NDArray[np.int64], there: NDArray[np.int64]) -> bool:
    """Whether the informative rows favour the shift by far more than chance would produce anywhere in the source.

    A row is informative if the two recordings differ in length and one of them fits the text clearly better.
    """
    if len(here) < FEWEST_SHIFTED:
        return False
    stays, moves = np.abs(said[here] - sound[here]), np.abs(said[here] - sound[there])
    tells = np.flatnonzero(np.abs(stays - moves) > _TOLD_APART)
    if not len(tells):
        return False
    longer = float((sound[there[tells]] > sound[here[tells]]).mean())
    votes = float(np.sign(stays - moves)[tells].sum())
    surely = np.sqrt(6 + 2 * np.log(len(said) * len(SHIFTS)))
    return bool(
        _EITHER_WAY <= longer <= 1 - _EITHER_WAY
        and votes >= (2 * _FOR - 1) * len(tells)
        and votes >= surely * np.sqrt(len(tells))
        and _rank_correlation(said[here[tells]], sound[there[tells]]) >= _TOGETHER
        and np.median(moves) < np.median(stays)
    )


def _rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation: 1 for the same order, 0 for unrelated orders; equal values share their rank."""
    ranks = [_ranks(a), _ranks(b)]
    deviations = [one - one.mean() for one in ranks]
    norm = float(np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum()))
    return float((deviations[0] * deviations[1]).sum()) / norm if norm else 0.0


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse], dtype=np.float64)


def _spread(values: Floats) -> float:
    """Robust standard deviation, from the median absolute deviation."""
    return float(np.median(np.abs(values - np.median(values)))) * 1.4826
