"""Cut a recording at the ends of sentences, in pauses; sentences without a pause between them stay together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from job.fetch.pauses import MARGIN

#: Longest distance between the last character of a sentence and the pause after it, or the pause before it and its
#: first character; seconds. The frames of a character are somewhere within its sound.
FARTHEST = 0.5
#: Shortest pause in which the recording is cut, seconds; between the parts of a plosive there are shorter ones.
SHORTEST = 0.12

Pause = tuple[float, float]


@dataclass(frozen=True)
class Said:
    """A sentence of a text, and where it is said, in seconds; `number` is its place in the text.

    `fault` says why it cannot be used (reason and figures); None if it can.
    """

    number: int
    start: float
    end: float
    fault: tuple[str, str] | None = None


@dataclass(frozen=True)
class Cut:
    """One or more sentences that are cut out together, from `start` to `end` (seconds)."""

    sentences: tuple[Said, ...]
    start: float
    end: float
    fault: tuple[str, str] | None = None


def pauses(stretches: Iterable[tuple[float, float]], begin: float, end: float) -> list[Pause]:
    """Return the pauses around stretches of speech, and the two edges of the recording, which are pauses of any length.

    Args:
        stretches: start and end of each, seconds, in order.
        begin: start of the recording.
        end: its end.
    """
    found, at = [], begin
    for start, stop in stretches:
        if start - at >= SHORTEST or at == begin:
            found.append((at, start))
        at = stop
    return [*found, (at, end)]


def cut(said: list[Said], found: list[Pause], longest: float, longest_alone: float) -> Iterator[Cut]:
    """Yield what is cut out, in order.

    Args:
        said: the sentences that were found, in order of time.
        found: the pauses of the recording.
        longest: maximum length of several sentences together, seconds.
        longest_alone: maximum length of a single sentence.
    """
    run: list[Said] = []
    start: float | None = None
    for number, one in enumerate(said):
        before = said[number - 1].end if number else float("-inf")
        after = said[number + 1].start if number + 1 < len(said) else float("inf")
        if not run:
            start = _start(one, before, found)
        run.append(one)
        end = _end(one, after, found)
        if number + 1 < len(said) and (end is None or _start(said[number + 1], one.end, found) is None):
            continue
        yield _whole(tuple(run), start, end, longest_alone if len(run) == 1 else longest)
        run = []


def _start(one: Said, before: float, found: list[Pause]) -> float | None:
    """Return where to cut before a sentence; None if there is no pause between the one before and it."""
    near = [pause for pause in found if pause[0] < one.start and pause[1] > before]
    if not near or one.start - near[-1][1] > FARTHEST:
        return None
    begins, ends = near[-1]
    return ends - min(MARGIN, (ends - begins) / 2)


def _end(one: Said, after: float, found: list[Pause]) -> float | None:
    """Return where to cut after a sentence; None if there is no pause between it and the next one."""
    near = [pause for pause in found if pause[1] > one.end and pause[0] < after]
    if not near or near[0][0] - one.end > FARTHEST:
        return None
    begins, ends = near[0]
    return begins + min(MARGIN, (ends - begins) / 2)


def _whole(run: tuple[Said, ...], start: float | None, end: float | None, longest: float) -> Cut:
    fault = next((one.fault for one in run if one.fault is not None), None)
    first, last = run[0].start if start is None else start, run[-1].end if end is None else end
    if fault is not None and len(run) > 1:
        fault = (fault[0], f"{fault[1]}; {len(run)} sentences without a pause between them")
    elif fault is None and (start is None or end is None):
        fault = ("no pause around the sentence", "speech without a text touches it")
    elif fault is None and last - first > longest:
        kind = "sentence is too long" if len(run) == 1 else "sentences without a pause between them"
        fault = (kind, f"{last - first:.1f} s, {longest:g} s at most can be one clip")
    return Cut(run, round(first, 3), round(last, 3), fault)
