"""Match the characters that a model heard in a recording with those of a text, to know roughly what is said where."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Tokens in a row that make an anchor if they are in the text and were heard; anchors that occur more often than this
#: say nothing. Even where a fifth of the letters is misheard, a sentence of 30 letters has some six of them.
ANCHOR, MOST_OFTEN = 6, 20
#: Largest difference between the distances of two anchors in the text and in what was heard.
DRIFT = 10
#: First code point for tokens, so that they can be compared as strings.
_FIRST = 0x4E00


@dataclass(frozen=True)
class Heard:
    """What a model heard, without regard to any text: tokens, and the frame at which each begins."""

    tokens: np.ndarray
    frames: np.ndarray

    def between(self, first: int, last: int) -> slice:
        """Return which tokens begin in frames `first` to `last` (exclusive)."""
        return slice(*np.searchsorted(self.frames, [first, last]).tolist())


@dataclass(frozen=True)
class Matched:
    """How the tokens of a text compare with what was heard.

    Attributes:
        at: for each token of the text, the index of the same token in what was heard; -1 if it was not heard.
        missing: for each token of the text, the length of the run of tokens around it for which nothing was heard.
        extra: for each token heard, the length of the run of tokens around it that the text does not have.
    """

    at: np.ndarray
    missing: np.ndarray
    extra: np.ndarray


def match(text: Sequence[int], heard: Sequence[int]) -> Matched:
    """Align two sequences of tokens with the fewest changes (Levenshtein)."""
    import jiwer

    at = np.full(len(text), -1)
    missing, extra = np.zeros(len(text), int), np.zeros(len(heard), int)
    if not len(text) or not len(heard):
        return Matched(at, missing + len(text), extra + len(heard))
    for chunk in jiwer.process_characters(_string(text), _string(heard)).alignments[0]:
        here, there = slice(chunk.ref_start_idx, chunk.ref_end_idx), slice(chunk.hyp_start_idx, chunk.hyp_end_idx)
        if chunk.type == "equal":
            at[here] = np.arange(there.start, there.stop)
        elif chunk.type == "delete":
            missing[here] = here.stop - here.start
        elif chunk.type == "insert":
            extra[there] = there.stop - there.start
    return Matched(at, missing, extra)


def _string(tokens: Sequence[int]) -> str:
    return "".join(chr(_FIRST + token) for token in tokens)


def anchored(text: Sequence[int], heard: Sequence[int]) -> np.ndarray:
    """Return for each token of the text the index of the same token in what was heard; -1 where that is not known.

    Unlike the fewest changes of `match`, this is not led astray by text that is not said, or speech without a text, of
    any length: it is the longest chain of passages that are the same in both, without those that stand alone.
    """
    chain = _longest_chain(_anchors(text, heard))
    at = np.full(len(text), -1)
    if not len(chain):
        return at
    far = np.abs(np.diff(chain[:, 1] - chain[:, 0])) + (np.diff(chain[:, 0]) > 5 * DRIFT) * 2 * DRIFT > DRIFT
    for passage in np.split(chain, np.flatnonzero(far) + 1):
        if len(passage) > 1:
            for shift in range(ANCHOR):
                at[passage[:, 0] + shift] = passage[:, 1] + shift
    return at


def _anchors(text: Sequence[int], heard: Sequence[int]) -> list[tuple[int, int]]:
    """Return the places in text and heard of every anchor, sorted by the first, and by the second from behind."""
    told, there = _string(text), _string(heard)
    places: dict[str, list[int]] = defaultdict(list)
    for at in range(len(there) - ANCHOR, -1, -1):
        places[there[at : at + ANCHOR]].append(at)
    found = ((at, places.get(told[at : at + ANCHOR], ())) for at in range(len(told) - ANCHOR + 1))
    return [(at, other) for at, others in found if len(others) <= MOST_OFTEN for other in others]


def _longest_chain(pairs: list[tuple[int, int]]) -> np.ndarray:
    """Return the most pairs of which both numbers increase, (n, 2)."""
    ends: list[int] = []  # the smallest second number at the end of a chain of each length, and which pair that is
    last: list[int] = []
    before = [-1] * len(pairs)
    for number, (_, other) in enumerate(pairs):
        length = bisect_left(ends, other)
        ends[length : length + 1] = [other]
        last[length : length + 1] = [number]
        before[number] = last[length - 1] if length else -1
    chain, number = [], last[-1] if last else -1
    while number >= 0:
        chain.append(pairs[number])
        number = before[number]
    return np.array(chain[::-1], int).reshape(-1, 2)
