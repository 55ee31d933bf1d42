"""Find where each sentence of a text is said in a recording, and which of them are not said, or not as written.

The characters that the model heard are compared with the text, which tells roughly where each sentence is, also where
text or speech has no counterpart. Around those places the text is then aligned frame by frame
(`torchaudio.functional.forced_align`), a few sentences at a time, with a token between them that fits any sound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from job.fetch.alignment.matching import Heard, match
from job.fetch.alignment.spelling import WILDCARD, Spelling

#: Shares of a sentence's characters heard in one place: from the first on, it is there; below the second, it is not
#: said, if it has at least `SHORT` characters. Two texts that have nothing in common match by chance to about 0.35.
SURE, UNLIKELY, SHORT = 0.6, 0.45, 12
#: Least mean per frame of the log-probability of the text minus that of the likeliest characters. MMS was made of what
#: is above -0.2; a voice needs less, since the sentence has been compared as well.
LEAST_SCORE = -0.5
#: Characters in a row that are not heard, or that the text does not have, within a sentence: about a word.
WORD = 5
#: Characters heard between two sentences that are reported as speech without a text.
MANY = 8
#: Frames aligned together, and frames around them: after a sentence that was found, and where none was.
_TOGETHER, _NEAR, _FAR = 1500, 25, 250
#: Largest alignment, frames times characters: about the bytes that it needs.
_LARGEST = 400_000_000
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
    known = [number for number, one in enumerate(rough) if isinstance(one, tuple)]
    found: list[Place | tuple[str, str]] = [(NOT_SAID, f"{_percent(one)} of its letters were heard") for one in rough]
    for group in _groups(rough, known):
        first, last = _window(rough, group, len(emissions))
        inside = [n for n in group if sentences[n]]
        characters = sum(len(word) + 1 for n in inside for word in sentences[n])
        if not (characters * 2 < last - first and characters * (last - first) < _LARGEST):
            found = [(NOT_SAID, TOO_LITTLE) if n in inside and n not in known else one for n, one in enumerate(found)]
            inside = [n for n in inside if n in known]
        for number, one in zip(inside, _aligned(emissions, first, last, spelling, inside, sentences), strict=True):
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


def _rough(heard: Heard, sentences: list[Words]) -> list[tuple[int, int] | float]:
    """Return for each sentence the first and last frame at which it was heard, or the share of it that was heard."""
    plain = [[token for word in words for token in word if token != WILDCARD] for words in sentences]
    at = match([token for one in plain for token in one], heard.tokens.tolist()).at
    found: list[tuple[int, int] | float] = []
    start = 0
    for one in plain:
        mine = at[start : start + len(one)]
        start += len(one)
        here = np.flatnonzero(mine >= 0)
        # characters far from the others of the sentence are chance
        jumps = np.flatnonzero(np.diff(mine[here]) - np.diff(here) > 2 * WORD) + 1
        here = max(np.split(here, jumps), key=len)
        share = len(here) / len(one) if one else 0.0
        if share >= SURE:
            found.append((int(heard.frames[mine[here[0]]]), int(heard.frames[mine[here[-1]]])))
        else:
            found.append(share)
    return [1.0 if 0 < len(one) < SHORT and not isinstance(f, tuple) else f for f, one in zip(found, plain, strict=True)]


def _groups(rough: list[tuple[int, int] | float], known: list[int]) -> list[list[int]]:
    """Return the sentences to align together; between two groups there are sentences of which the place is known."""
    groups: list[list[int]] = []
    group: list[int] = []
    begin = 0
    for number, one in enumerate(rough):
        if isinstance(one, tuple):
            apart = bool(group) and group[-1] in known and one[1] - begin > _TOGETHER
            if apart:
                groups.append(group)
                group = []
            begin = one[0] if not any(n in known for n in group) else begin
            group.append(number)
        elif one >= UNLIKELY:
            group.append(number)
    return [*groups, group] if group else groups


def _window(rough: list[tuple[int, int] | float], group: list[int], length: int) -> tuple[int, int]:
    """Return the frames in which the sentences of a group are looked for."""
    before = next((one[1] for one in reversed(rough[: group[0]]) if isinstance(one, tuple)), -_NEAR)
    after = next((one[0] for one in rough[group[-1] + 1 :] if isinstance(one, tuple)), length + _NEAR)
    head, tail = rough[group[0]], rough[group[-1]]
    first = max(0, before - _NEAR, head[0] - _FAR if isinstance(head, tuple) else 0)
    last = min(length, after + _NEAR, tail[1] + _FAR if isinstance(tail, tuple) else length)
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
    repeats = sum(one == other for one, other in zip(targets, targets[1:], strict=False))
    if len(targets) + repeats > len(part):
        return [None] * len(numbers)
    best = part.max(1).values
    log_probs = torch.cat([part, torch.zeros(len(part), 1)], dim=1)[None]
    path, scores = forced_align(log_probs, torch.tensor([targets], dtype=torch.int32), blank=spelling.blank)
    spans = merge_tokens(path[0], scores[0], blank=spelling.blank)
    less = torch.where(path[0] == any_sound, torch.nan, scores[0] - best)
    found: list[_Aligned | None] = []
    for begin, end in inside:
        start, stop = spans[begin].start, spans[end - 1].end
        score = less[start:stop].nanmean().item()
        unsure = any_sound in (targets[begin], targets[end - 1])
        found.append(_Aligned(first + start, first + stop, score, unsure))
    return found


def _judged(one: _Aligned | None, heard: Heard, words: Words) -> Place | tuple[str, str]:
    """Decide whether a sentence is said where it was aligned, as it is written."""
    if one is None:
        return NOT_SAID, TOO_LITTLE
    tokens = [token for word in words for token in word if token != WILDCARD]
    wild = sum(map(len, words)) > len(tokens)
    there = heard.tokens[heard.between(one.first, one.last)]
    matched = match(tokens, there.tolist())
    share = float((matched.at >= 0).mean())
    figures = f"{_percent(share)} of its letters were heard, log-probability {one.score:.2f} per frame"
    fault = None
    if not one.score >= LEAST_SCORE or (share < UNLIKELY and len(tokens) >= SHORT):
        return NOT_SAID, f"{figures} ({LEAST_SCORE:g} at least is accepted)"
    if matched.missing.max() >= WORD:
        fault = (OTHER, f"{matched.missing.max()} letters in a row were not heard")
    elif matched.extra.max(initial=0) >= WORD and not wild:
        fault = (OTHER, f"{matched.extra.max()} letters in a row were heard that it does not have")
    elif one.open:
        fault = (OTHER, "it begins or ends with signs that the model does not know; TEXT_NORMALIZER or words help")
    return Place(one.first, one.last, one.score, fault)


def _percent(share: Any) -> str:
    return f"{share:.0%}" if isinstance(share, float) else "little"
