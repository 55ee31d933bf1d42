"""Find the row whose text is what was heard in another row: texts that are swapped, or shifted by one or more rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from job.prepare.shifted import Shift, best_stretch
from job.prepare.thresholds import OTHERS_SHARE, OTHERS_WORDS

#: Rows before and after a row whose texts are compared with what was heard in it.
NEAR = 10
#: Shortest text, in letters, that is taken for another row's: shorter ones fit many.
SHORTEST = 6
#: Fewest rows that are shifted by the same number of rows for that to be said of all of them.
FEWEST = 5


def owners(
    numbers: Sequence[int],
    texts: Sequence[str],
    heard: Sequence[str],
    suspects: Iterable[tuple[int, float]],
    rate: Callable[[str, str], float],
) -> dict[int, int]:
    """Find the rows of one source that say the text of another row.

    The texts of the rows nearby are compared, those of all rows that are exactly what was heard, and those at the
    distance at which most of the latter are.

    Args:
        numbers: (n,) numbers of the rows in their source.
        texts: (n,) their texts, without spaces and punctuation.
        heard: (n,) what was heard in them, likewise.
        suspects: indices of rows that do not say their own text, each with its error rate against that.
        rate: error rate of a transcript (second) against a text (first).

    Returns:
        Index of a row -> by how many rows the row whose text it says comes later (negative: earlier).
    """
    at = {number: index for index, number in enumerate(numbers)}
    same: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        if len(text) >= SHORTEST:
            same.setdefault(text, []).append(index)
    suspects = list(suspects)
    found: dict[int, int] = {}
    for index, _ in suspects:
        steps = [numbers[other] - numbers[index] for other in same.get(heard[index], ())]
        if steps := [by for by in steps if by]:
            found[index] = min(steps, key=lambda by: (abs(by), by))
    often = [by for by, _ in Counter(found.values()).most_common(1)]
    nearby = dict.fromkeys([*often, *(by for near in range(1, NEAR + 1) for by in (near, -near))])
    for index, own in suspects:
        if index in found:
            continue
        others = [at[numbers[index] + by] for by in nearby if numbers[index] + by in at]
        rates = {other: rate(texts[other], heard[index]) for other in others if _may_be(texts[other], heard[index])}
        best = min(rates, key=rates.__getitem__, default=index)
        if best != index and rates[best] <= min(OTHERS_WORDS, OTHERS_SHARE * own):
            found[index] = numbers[best] - numbers[index]
    return found


def _may_be(text: str, heard: str) -> bool:
    """Whether the lengths allow the transcript to be of this text; most texts need not be compared then."""
    return len(text) >= SHORTEST and abs(len(text) - len(heard)) <= OTHERS_WORDS * len(text)


def shift(numbers: Sequence[int], found: dict[int, int]) -> tuple[Shift, int] | None:
    """Find the range in which most recordings say the text of the row at the same distance.

    Args:
        numbers: (n,) numbers of the rows that were compared, in their source.
        found: as `owners` returns it.

    Returns:
        The shift, in terms of the texts (text n belongs to the recording `by` rows later), and how many recordings show
        it; None if fewer than `FEWEST` do.
    """
    if not found:
        return None
    order = np.argsort(np.asarray(numbers), kind="stable")
    distance = Counter(found.values()).most_common(1)[0][0]
    votes = np.array([1.0 if found.get(int(index)) == distance else -1.0 for index in order])
    first, last, score = best_stretch(votes)
    if score < FEWEST:
        return None
    rows = [numbers[index] + distance for index in order[first:last]]
    count = int((votes[first:last] > 0).sum())
    return Shift(rows[0], rows[-1], -distance, last >= len(order) - abs(distance)), count
