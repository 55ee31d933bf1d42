"""Join the cues of a long recording into sentences, one per row, and give a reason for each cue that is rejected."""

from __future__ import annotations

import html
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from job.fetch.cue_files import SEVERAL, Cue
from job.fetch.table import RowError
from job.text.sentences import CLOSERS, ENDERS

#: Seconds of margin added on each side of a sentence, at most half of the pause there: the times of subtitles are
#: imprecise, and a truncated word is worse than a little silence.
MARGIN = 0.15
#: Longest pause between cues of one sentence, seconds.
SMALL_GAP = 0.8
#: Seconds by which a cue may overlap the previous one without counting as overlapping: times are rounded.
ROUNDED = 0.1
#: Seconds after the end of a recording until which a cue may be shown.
BEYOND = 1.0
#: Latest end time that is accepted for a cue, seconds.
_LONGEST = 1e6

#: Punctuation that ends a sentence, optionally followed by closing quotes and brackets.
_ENDS = re.compile(rf"[{ENDERS}]+[\s{CLOSERS}]*$")
_TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
#: A sound: `[Music]`, `♪ la la ♪`, `*sighs*`; and a cue that consists only of an aside, `(applause)`.
_SOUND = re.compile(r"\[[^\[\]]*\]|[♪♫]|\*[^*]+\*")
_ASIDE = re.compile(r"\W*\([^()]*\)\W*")
#: Marks of a change of speaker at the start of a cue: a dash or `>>`.
_MARK = re.compile(r"^(?:[-–—]\s+|>>+\s*)+")
_DASH = re.compile(r"^\s*[-–—]\s*\S", re.MULTILINE)


@dataclass(frozen=True)
class Sentence:
    """A sentence joined from cues: the numbers of the first and last cue, times in seconds, text, speaker."""

    first: int
    last: int
    start: float
    end: float
    text: str
    speaker: str | None

    def values(self) -> dict[str, Any]:
        """The sentence as columns of a row, without a speaker if none is named."""
        named = {"speaker": self.speaker} if self.speaker is not None else {}
        return {"start": self.start, "end": self.end, "text": self.text, **named}


def sentences(cues: Iterable[Cue], name: str, longest: float, length: float) -> Iterator[Sentence | RowError]:
    """Yield the sentences of a recording in order of time, or an error per rejected cue.

    A cue is joined with the next one if it does not end a sentence, the speaker is the same and the pause is short.

    Args:
        cues: the cues of one file.
        name: the file's name, for messages.
        longest: maximum length of a sentence joined from several cues, seconds.
        length: length of the recording, seconds.
    """
    ordered = sorted(cues, key=lambda cue: (cue.start if math.isfinite(cue.start) else -1.0, cue.number))
    starts = sorted(cue.start for cue in ordered if math.isfinite(cue.start))
    ends = sorted(cue.end for cue in ordered if math.isfinite(cue.end))
    for found in _joined_cues(ordered, name, longest - 2 * MARGIN):
        yield found if isinstance(found, RowError) else _with_margins(found, starts, ends, length)


def check_length(cues: list[Cue], name: str, audio: str, length: float) -> None:
    """Reject a file of which several cues end after the recording: where all the others belong is unknown.

    Raises:
        RowError: so it is; `length` is the recording's, seconds.
    """
    beyond = [cue.end for cue in cues if cue.end > length + BEYOND]
    if len(beyond) > 1 or len(beyond) == len(cues):
        raise RowError(
            "subtitles are longer than the recording",
            f"{len(beyond)} of {len(cues)} cues of {name} end after {audio} does ({length:.1f} s), the last at "
            f"{max(beyond):.1f} s: they are of another cut, or shifted; shift their times, or take out those cues if "
            "the recording is the beginning of what they are of",
        )


def _with_margins(one: Sentence, starts: list[float], ends: list[float], length: float) -> Sentence:
    """Extend a sentence by `MARGIN` into the pauses around it. `starts` and `ends` are those of all cues, sorted."""
    before = ends[at - 1] if (at := bisect_right(ends, one.start + ROUNDED)) else 0.0
    after = starts[at] if (at := bisect_left(starts, one.end - ROUNDED)) < len(starts) else length
    start = one.start - min(MARGIN, max(0.0, one.start - before) / 2)
    end = one.end + min(MARGIN, max(0.0, after - one.end) / 2)
    return replace(one, start=round(start, 3), end=round(end, 3))


def _joined_cues(ordered: list[Cue], name: str, longest: float) -> Iterator[Sentence | RowError]:
    checked = [_checked(cue, name) for cue in ordered]
    overlapping = _overlapping([cue for cue in checked if isinstance(cue, Cue)])
    going: Sentence | None = None
    for cue in checked:
        if isinstance(cue, Cue) and cue.number in overlapping:
            cue = RowError(
                "cues overlap", f"{_shown(cue, name)} and cue {overlapping[cue.number]} are at the same time"
            )
        if isinstance(cue, Cue) and going is not None and (joined := _joined(going, cue, longest)) is not None:
            going = joined
            continue
        if going is not None:
            yield going
        going = None
        if isinstance(cue, RowError):
            yield cue
        else:
            going = Sentence(cue.number, cue.number, max(cue.start, 0.0), cue.end, cue.text, cue.speaker)
    if going is not None:
        yield going


def _checked(cue: Cue, name: str) -> Cue | RowError:
    """Return the cue with plain text, or why it is rejected: impossible times, no words, a sound, or two speakers."""
    if math.isnan(cue.start) or math.isnan(cue.end):
        shown = " ".join(cue.text.split())[:60]
        return RowError("cue without times", f"{name} cue {cue.number}: no times can be read for {shown!r}; mend them")
    if not (math.isfinite(cue.start) and math.isfinite(cue.end) and -ROUNDED <= cue.start < cue.end < _LONGEST):
        return RowError("cue with impossible times", f"{name} cue {cue.number}: {cue.start:g} to {cue.end:g} s")
    bare = html.unescape(_TAG.sub("", cue.text))
    said = _MARK.sub("", " ".join(bare.split()))
    if not any(character.isalnum() for character in said):
        return RowError("cue without words", f"{_shown(cue, name)}: {said[:40]!r}")
    if _SOUND.search(said) or _ASIDE.fullmatch(said):
        return RowError("cue with a sound", f"{_shown(cue, name)}: {said[:40]!r} is not all said")
    if len(_DASH.findall(bare)) > 1 or ">>" in said or (cue.speaker and SEVERAL in cue.speaker):
        return RowError("two people in a cue", f"{_shown(cue, name)}: {said[:60]!r}")
    return replace(cue, text=said)


def _shown(cue: Cue, name: str) -> str:
    return f"{name} cue {cue.number} at {cue.start:.1f} s"


def _overlapping(cues: list[Cue]) -> dict[int, int]:
    """Map the number of each cue that overlaps another one to the number of that other cue."""
    found: dict[int, int] = {}
    latest = 0  # index of the earlier cue that ends last
    for at in range(1, len(cues)):
        if cues[at].start < cues[latest].end - ROUNDED:
            found[cues[at].number] = cues[latest].number
            found.setdefault(cues[latest].number, cues[at].number)
        if cues[at].end > cues[latest].end:
            latest = at
    return found


def _joined(going: Sentence, cue: Cue, longest: float) -> Sentence | None:
    if (
        _ENDS.search(going.text)
        or going.speaker != cue.speaker
        or cue.start - going.end > SMALL_GAP
        or cue.end - going.start > longest
    ):
        return None
    return replace(going, last=cue.number, end=cue.end, text=f"{going.text} {cue.text}")
