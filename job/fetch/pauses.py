"""Cut a long recording into pieces at pauses, never within speech, reading it block by block."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from job.audio.decode import Recording
from job.audio.measure import mix
from job.audio.speech import PERHAPS, SPEECH
from job.fetch.edges import SHORTEST_PAUSE, STEP, chances

#: Windows of the speech detector per block, and windows of context before and after the block.
_BLOCK, _AROUND = 1875, 47
#: Seconds of silence kept on each side of a piece, but at most half of the pause there.
MARGIN = 0.15
#: Pieces of at least `SHORTEST` seconds end at the first pause of `SENTENCE_PAUSE` seconds; shorter ones are joined.
SHORTEST, SENTENCE_PAUSE = 2.0, 0.6
#: Recordings are always cut at pauses longer than this, in seconds, of which `prepare` would warn inside a clip.
LONGEST_PAUSE = 1.5
#: Shortest speech, in seconds, between two such pauses that can be a piece.
SHORTEST_ALONE = 1.0


@dataclass(frozen=True)
class Piece:
    """A part of a recording, in seconds. `fault` says why it cannot be a clip (kind and figures); None if it can."""

    start: float
    end: float
    fault: tuple[str, str] | None = None


def stretches(recording: Recording, begin: float, end: float, longest: float) -> Iterator[tuple[float, float]]:
    """Yield the stretches of speech between `begin` and `end`, as start and end in seconds, in order.

    Possible speech counts as speech, except within a stretch of more than `longest` seconds: there only certain speech
    does.
    """
    found = _windows(recording, round(begin / STEP), math.ceil(end / STEP))
    for first, held in _runs(enumerate(found, start=round(begin / STEP)), PERHAPS):
        long = len(held) * STEP > longest - 2 * MARGIN
        for start, part in _runs(enumerate(held, start=first), SPEECH) if long else [(first, held)]:
            # the detector lags by half a window: include the window before
            yield max(begin, (start - 1) * STEP), min(end, (start + len(part)) * STEP)


def _runs(windows: Iterable[tuple[int, float]], least: float) -> Iterator[tuple[int, list[float]]]:
    """Yield runs of windows with at least the probability `least`: number of the first window, and all probabilities.

    Gaps shorter than a pause do not end a run.
    """
    first, held, until = 0, list[float](), 0
    for number, chance in windows:
        if held and number - until >= SHORTEST_PAUSE and chance >= least:
            yield first, held[: until - first]
            held = []
        if chance >= least:
            first, until = first if held else number, number + 1
        if held or chance >= least:
            held.append(chance)
    if held:
        yield first, held[: until - first]


def _windows(recording: Recording, first: int, last: int) -> Iterator[float]:
    """Yield the probability of speech in each window from `first` to `last` (exclusive)."""
    rate = recording.rate
    for start in range(first, last, _BLOCK):
        stop = min(last, start + _BLOCK)
        before = max(0, start - _AROUND)
        heard = mix(recording.read_part(round(before * STEP * rate), round((stop + _AROUND) * STEP * rate)))
        if len(heard):
            yield from chances(np.nan_to_num(heard, posinf=1.0, neginf=-1.0), rate)[
                start - before : stop - before
            ].tolist()


def pieces(speech: Iterable[tuple[float, float]], begin: float, end: float, longest: float) -> Iterator[Piece]:
    """Join stretches of speech into pieces of up to `longest` seconds, in order, within `begin` to `end`."""
    held: list[tuple[float, float]] = []
    before = begin  # end of the speech before the held stretches
    most = longest - 2 * MARGIN
    for here in chain(speech, [None]):
        while held:
            pause = here[0] - held[-1][1] if here else np.inf
            told = held[-1][1] - held[0][0]
            if pause > LONGEST_PAUSE or (pause >= SENTENCE_PAUSE and told >= SHORTEST):
                cut = len(held)
            elif here and here[1] - held[0][0] > most:
                cut = _longest_pause([*held, here])
            else:
                break
            after = held[cut][0] if cut < len(held) else here[0] if here else end
            yield _piece(held[0][0], held[cut - 1][1], before, after, most)
            before, held = held[cut - 1][1], held[cut:]
        if here:
            held.append(here)


def _longest_pause(held: list[tuple[float, float]]) -> int:
    """Return the index of the stretch after the longest pause, if possible after at least `SHORTEST` seconds."""
    places = range(1, len(held))
    long_enough = [at for at in places if held[at - 1][1] - held[0][0] >= SHORTEST]
    return max(long_enough or places, key=lambda at: held[at][0] - held[at - 1][1])


def _piece(start: float, end: float, before: float, after: float, most: float) -> Piece:
    fault = None
    if end - start > most:
        fault = ("speech without a pause", f"{end - start:.1f} s, {most:.1f} s at most can be one clip")
    elif end - start < SHORTEST_ALONE:
        fault = ("too short to transcribe", f"{end - start:.2f} s between long pauses, {SHORTEST_ALONE:g} s are needed")
    start -= min(MARGIN, max(0.0, start - before) / 2)
    end += min(MARGIN, max(0.0, after - end) / 2)
    return Piece(round(start, 3), round(end, 3), fault)
