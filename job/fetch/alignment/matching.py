"""Match the characters that a model heard in a recording with those of a text, to know roughly what is said where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
