"""Cut a long recording into pieces at pauses, so that no cut lies in speech; it is read block by block."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from job.audio.decode import Recording
from job.audio.measure import mix
from job.fetch.edges import SHORTEST_PAUSE, STEP, may_be_speech

#: Windows of the speech detector in a block, and those before and after it that the detector also hears.
_BLOCK, _AROUND = 1875, 47
#: Seconds of silence left on each side of a piece, at most half of the pause there.
MARGIN = 0.15
#: Pieces of at least this many seconds end at the first pause of `SENTENCE_PAUSE` seconds; shorter ones are joined.
SHORTEST, SENTENCE_PAUSE = 2.0, 0.6
#: Pauses longer than this, in seconds, are always cut at: `prepare` warns of a longer one inside a clip.
LONGEST_PAUSE = 1.5
#: Speech between two such pauses is a piece from this many seconds on.
SHORTEST_ALONE = 1.0


@dataclass(frozen=True)
class Piece:
    """A part of a recording, in seconds. `fault` is why it cannot be a clip (kind and figures); None if it can."""

    start: float
    end: float
    fault: tuple[str, str] | None = None


def stretches(recording: Recording, begin: float, end: float) -> Iterator[tuple[float, float]]:
    """Yield the stretches of (possible) speech between `begin` and `end`, as start and end in seconds, in order."""
    first, last = round(begin / STEP), math.ceil(end / STEP)
    since: int | None = None
    until = first
    for number, spoken in enumerate(_windows(recording, first, last), start=first):
        if not spoken:
            continue
        if since is not None and number - until >= SHORTEST_PAUSE:
            yield _seconds(since, until, begin, end)
            since = None
        since = number if since is None else since
        until = number + 1
    if since is not None:
        yield _seconds(since, until, begin, end)


def _seconds(first: int, last: int, begin: float, end: float) -> tuple[float, float]:
    """Convert windows to seconds; as the detector hears half a window late, the one before counts as speech too."""
    return max(begin, (first - 1) * STEP), min(end, last * STEP)


def _windows(recording: Recording, first: int, last: int) -> Iterator[bool]:
    """Yield for each window from `first` to `last` whether it may contain speech."""
    rate = recording.rate
    for start in range(first, last, _BLOCK):
        stop = min(last, start + _BLOCK)
        before = max(0, start - _AROUND)
        heard = mix(recording.read_part(round(before * STEP * rate), round((stop + _AROUND) * STEP * rate)))
        spoken = may_be_speech(np.nan_to_num(heard, posinf=1.0, neginf=-1.0), rate) if len(heard) else np.zeros(0, bool)
        yield from spoken[start - before : stop - before].tolist()


def pieces(speech: Iterable[tuple[float, float]], begin: float, end: float, longest: float) -> Iterator[Piece]:
    """Join stretches of speech to pieces of up to `longest` seconds, in order; `begin` and `end` bound them."""
    held: list[tuple[float, float]] = []
    before = begin  # the end of the speech before the ones held
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
    """Return before which of the stretches the longest pause is, if possible not before `SHORTEST` seconds."""
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
