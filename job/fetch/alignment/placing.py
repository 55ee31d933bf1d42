"""Find where each sentence of a text is said in a recording, and which of them are not said, or not as written.

The characters that the model heard are compared with the text, which tells roughly where each sentence is, also where
text or speech has no counterpart. Around those places the text is then aligned frame by frame
(`torchaudio.functional.forced_align`), a few sentences at a time, with a token between them that fits any sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from job.fetch.alignment.matching import DRIFT, Heard, anchored, match
from job.fetch.alignment.spelling import WILDCARD, Spelling

#: Shares of a sentence's characters that are heard where it is aligned: from the first on, it is said there; below the
#: second, it is not, if it has at least `SHORT` characters. Texts that have nothing in common match to about 0.35.
SURE, UNLIKELY, SHORT, SURE_IF_SHORT = 0.6, 0.45, 12, 0.8
#: Between these shares, least mean per frame of the log-probability of the text minus that of the likeliest characters.
#: MMS was made of what is above -0.2.
LEAST_SCORE = -0.5
#: Characters in a row that are not heard, or that the text does not have, within a sentence: about a word.
WORD = 5
#: Characters heard between two sentences that are reported as speech without a text.
MANY = 8
#: Frames aligned together, and frames around them: after a sentence that was found, and where none was.
_TOGETHER, _NEAR, _FAR = 1500, 25, 250
#: Largest alignment, frames times characters: about the bytes that it needs.
_LARGEST = 400_000_000
#: Longest distance between two letters of a word, frames.
_GAP = 15
#: Frames for which the likeliest characters are computed together.
_BLOCK = 65_536

NOT_SAID, OTHER, NO_TEXT = "text that is not said", "text is not what is said", "speech without a text"
TOO_LITTLE = "there is too little sound for it between its neighbours"


@dataclass(frozen=True)
class Place:
    """Where a sentence is said.

    Attributes:
        first, last: the frame at which its first character begins, and the one at which its last character ends.
        score: mean log-probability per frame, less that of the likeliest characters.
        fault: why it cannot be used, as reason and figures; None if it can.
    """

    first: int
    last: int
    score: float
    fault: tuple[str, str] | None = None


Words = list[list[int]]
Span = tuple[int, int]


def listen(emissions: np.ndarray, spelling: Spelling) -> Heard:
    """Return the likeliest characters: of each run of frames with the same token, the token and its first frame."""
    best = np.concatenate([emissions[at : at + _BLOCK].argmax(1) for at in range(0, len(emissions), _BLOCK)])
    begins = np.flatnonzero(np.diff(best, prepend=-1))
    begins = begins[np.isin(best[begins], list(spelling.characters))]
    return Heard(best[begins], begins)


def place(
    emissions: np.ndarray, heard: Heard, spelling: Spelling, sentences: list[Words]
) -> list[Place | tuple[str, str]]:
    """Return for each sentence, given as the tokens of its words, where it is said, or why that cannot be told."""
    rough = _rough(heard, sentences)
    found: list[Place | tuple[str, str]] = [(NOT_SAID, "it was not heard")] * len(sentences)
    for group in _groups(rough, _candidates(heard, sentences, rough, len(emissions))):
        first, last = _window(rough, group, len(emissions))
        characters = sum(len(word) + 1 for n in group for word in sentences[n])
        if not (characters * 2 < last - first and characters * (last - first) < _LARGEST):
            group = [n for n in group if rough[n] is not None]
        for number, one in zip(group, _aligned(emissions, first, last, spelling, group, sentences), strict=True):
            found[number] = _judged(one, heard, sentences[number])
    for number, words in enumerate(sentences):
        if not words or all(token == WILDCARD for word in words for token in word):
            found[number] = (NOT_SAID, "the model knows none of its letters")
    return found


def without_text(heard: Heard, places: list[Place | tuple[str, str]]) -> list[slice]:
    """Return the stretches of what was heard that lie between sentences and are longer than a word."""
    edges, at = [], 0
    for one in places:
        if isinstance(one, Place) and (one.fault is None or one.fault[0] == OTHER):
            inside = heard.between(one.first, one.last)
            edges.append(slice(at, inside.start))
            at = max(at, inside.stop)
    edges.append(slice(at, len(heard.tokens)))
    return [part for part in edges if part.stop - part.start >= MANY]


def _rough(heard: Heard, sentences: list[Words]) -> list[Span | None]:
    """Return for each sentence the first and last frame at which it was heard; None if that is not known."""
    plain = [[token for word in words for token in word if token != WILDCARD] for words in sentences]
    at = anchored([token for one in plain for token in one], heard.tokens.tolist())
    found: list[Span | None] = []
    start = 0
    for one in plain:
        mine = at[start : start + len(one)]
        start += len(one)
        here = np.flatnonzero(mine >= 0)
        # a sentence that is in two places is where there is more of it
        jumps = np.flatnonzero(np.abs(np.diff(mine[here]) - np.diff(here)) > DRIFT) + 1
        here = max(np.split(here, jumps), key=len)
        if not len(here):
            found.append(None)
            continue
        first, last = mine[here[0]] - here[0], mine[here[-1]] + len(one) - 1 - here[-1]
        first, last = np.clip([first, last], 0, len(heard.frames) - 1).tolist()
        found.append((int(heard.frames[first]), int(heard.frames[last])))
    return found


def _candidates(heard: Heard, sentences: list[Words], rough: list[Span | None], length: int) -> list[int]:
    """Return the sentences to align: those of which the place is known, and those that may be between two of them."""
    chosen = [number for number, one in enumerate(rough) if one is not None]
    for begin, end in pairwise([-1, *chosen, len(rough)]):
        gap = range(begin + 1, end)
        first = rough[begin] if begin >= 0 else None
        last = rough[end] if end < len(rough) else None
        there = heard.between(first[1] if first else 0, last[0] if last else length)
        plain = [[token for word in sentences[n] for token in word if token != WILDCARD] for n in gap]
        at = match([token for one in plain for token in one], heard.tokens[there].tolist()).at
        for number, one in zip(gap, plain, strict=True):
            mine, at = at[: len(one)], at[len(one) :]
            if one and (mine >= 0).mean() >= UNLIKELY:
                chosen.append(number)
    return sorted(chosen)


def _groups(rough: list[Span | None], chosen: list[int]) -> Iterator[list[int]]:
    """Yield the sentences to align together; the places of those on both sides of a border are known."""
    group: list[int] = []
    begin: int | None = None
    for number in chosen:
        here = rough[number]
        full = begin is not None and here is not None and here[1] - begin > _TOGETHER
        if full and rough[group[-1]] is not None:
            yield group
            group, begin = [], None
        begin = here[0] if begin is None and here is not None else begin
        group.append(number)
    if group:
        yield group


def _window(rough: list[Span | None], group: list[int], length: int) -> tuple[int, int]:
    """Return the frames in which the sentences of a group are looked for."""
    before = next((one[1] for one in reversed(rough[: group[0]]) if one is not None), -_NEAR)
    after = next((one[0] for one in rough[group[-1] + 1 :] if one is not None), length + _NEAR)
    head, tail = rough[group[0]], rough[group[-1]]
    first = max(0, before - _NEAR, head[0] - _FAR if head is not None else 0)
    last = min(length, after + _NEAR, tail[1] + _FAR if tail is not None else length)
    return first, last


@dataclass(frozen=True)
class _Aligned:
    first: int
    last: int
    score: float
    open: bool


def _aligned(
    emissions: np.ndarray, first: int, last: int, spelling: Spelling, numbers: list[int], sentences: list[Words]
) -> list[_Aligned | None]:
    """Align sentences with the frames from `first` to `last`; None for all if they do not fit."""
    import torch
    from torchaudio.functional import forced_align, merge_tokens

    part = torch.from_numpy(np.array(emissions[first:last], np.float32))
    any_sound = part.shape[1]
    targets, inside = [any_sound], []
    for number in numbers:
        begin = len(targets)
        for place_of, word in enumerate(sentences[number]):
            targets += [spelling.delimiter] if place_of and spelling.delimiter is not None else []
            targets += [any_sound if token == WILDCARD else token for token in word]
        inside.append((begin, len(targets)))
        targets.append(any_sound)
    repeats = sum(one == other for one, other in pairwise(targets))
    if len(targets) + repeats > len(part):
        return [None] * len(numbers)
    best = part.max(1).values
    log_probs = torch.cat([part, torch.zeros(len(part), 1)], dim=1)[None]
    path, scores = forced_align(log_probs, torch.tensor([targets], dtype=torch.int32), blank=spelling.blank)
    spans = merge_tokens(path[0], scores[0], blank=spelling.blank)
    less = torch.where(path[0] == any_sound, torch.nan, scores[0] - best)
    found: list[_Aligned | None] = []
    for number, (begin, end) in zip(numbers, inside, strict=True):
        head, tail = len(sentences[number][0]), len(sentences[number][-1])
        start = _behind_gaps(spans[begin : begin + head])[0].start
        stop = _behind_gaps(spans[end - tail : end][::-1])[0].end
        score = less[start:stop].nanmean().item()
        unsure = any_sound in (targets[begin], targets[end - 1])
        found.append(_Aligned(first + start, first + stop, score, unsure))
    return found


def _behind_gaps(word: list[Any]) -> list[Any]:
    """Return the letters of a sentence's outermost word that are together: one that was misheard may be far off."""
    gaps = [max(one.start, other.start) - min(one.end, other.end) for one, other in pairwise(word)]
    return word[max((number for number, gap in enumerate(gaps, start=1) if gap > _GAP), default=0) :]


def _judged(one: _Aligned | None, heard: Heard, words: Words) -> Place | tuple[str, str]:
    """Decide whether a sentence is said where it was aligned, as it is written."""
    if one is None:
        return NOT_SAID, TOO_LITTLE
    tokens = [token for word in words for token in word if token != WILDCARD]
    wild = sum(map(len, words)) > len(tokens)
    there = heard.tokens[heard.between(one.first, one.last)]
    matched = match(tokens, there.tolist())
    share = float((matched.at >= 0).mean())
    figures = f"{share:.0%} of its letters were heard, log-probability {one.score:.2f} per frame"
    fault = None
    sure = share >= (SURE if len(tokens) >= SHORT else SURE_IF_SHORT)
    if not sure and (not one.score >= LEAST_SCORE or (share < UNLIKELY and len(tokens) >= SHORT)):
        return NOT_SAID, f"{figures}; {SURE:.0%} or {LEAST_SCORE:g} are needed"
    if matched.missing.max() >= WORD:
        fault = (OTHER, f"{matched.missing.max()} letters in a row were not heard")
    elif matched.extra.max(initial=0) >= WORD and not wild:
        fault = (OTHER, f"{matched.extra.max()} letters in a row were heard that it does not have")
    elif one.open:
        fault = (OTHER, "it begins or ends with signs that the model does not know; TEXT_NORMALIZER or words help")
    return Place(one.first, one.last, one.score, fault)
