"""Parse SRT and WebVTT subtitles into times and lines of text, so that no line with words is dropped or joined wrongly.

A blank line inside a cue does not end its text, as FFmpeg and players read SRT. A line that is meant as a cue's times
and cannot be read as such begins a cue without times, which is rejected with its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

#: A cue as it is written: the start and end in seconds (NaN if they cannot be read), and the lines of its text.
Written = tuple[float, float, list[str]]

_CLOCK = r"(?:(\d{1,3}):)?(\d{1,3}):(\d{1,2})(?:[.,](\d{1,6}))?"
_ARROW = re.compile(rf"\s*{_CLOCK}\s*-{{1,2}}>\s*{_CLOCK}(?:\s|$)")
#: A line that is meant as times: with an arrow, or nothing but two times of a clock that has seconds.
_ROUGHLY = r"\d{1,3}:\d{1,2}(?::\d[\d:.,]*|[.,]\d+)"
_NEARLY = re.compile(rf"-->|^\s*{_ROUGHLY}\s*(?:[-–—>→]+|to|\s)\s*{_ROUGHLY}\s*$")
#: First words of the blocks of WebVTT that are not cues.
_ASIDE = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")
#: Longest pause, in seconds, between two captions of which the second repeats lines of the first as it rolls.
_ROLLING_PAUSE = 0.1


def parse(text: str) -> Iterator[tuple[int, Written]]:
    """Yield the cues, numbered from 1, without the lines that rolling captions repeat from the previous one."""
    cues = _cues(text.split("\n"))
    for number, ((start, end, shown), new) in enumerate(zip(cues, _unrolled(cues), strict=True), start=1):
        if new or not shown:
            yield number, (start, end, new)


def _cues(given: list[str]) -> list[Written]:
    times = [(_ARROW.match(line), bool(_NEARLY.search(line))) for line in given]
    begins = [arrow is not None or nearly for arrow, nearly in times]
    vtt = bool(given) and given[0].startswith("WEBVTT")
    first = next((at for at, is_time in enumerate(begins) if is_time), 0)
    numbered = first > 0 and given[first - 1].strip().isdigit()
    found: list[Written] = []
    aside = vtt  # the header of WebVTT goes on until the first blank line
    for at, line in enumerate(given):
        if aside and line.strip():
            continue
        aside = vtt and (at == 0 or not given[at - 1].strip()) and bool(_ASIDE.match(line))
        if aside or not line.strip():
            continue
        arrow = times[at][0]
        if arrow is not None:
            found.append((_seconds(*arrow.groups()[:4]), _seconds(*arrow.groups()[4:]), []))
        elif begins[at]:
            found.append((float("nan"), float("nan"), [line.strip()]))
        elif at + 1 < len(given) and begins[at + 1] and _is_name(given, at, numbered, vtt):
            continue
        elif found:
            found[-1][2].append(line.strip())
        elif not vtt:
            found.append((float("nan"), float("nan"), [line.strip()]))
    return found


def _is_name(given: list[str], at: int, numbered: bool, vtt: bool) -> bool:
    """Whether a line above a cue's times is the cue's number or identifier, not the last line of the previous cue."""
    number = given[at].strip().isdigit()
    return (number and numbered) or ((number or vtt) and (at == 0 or not given[at - 1].strip()))


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str | None) -> float:
    """Convert the parts of a clock time to seconds."""
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction or 0}")


def _unrolled(cues: list[Written]) -> list[list[str]]:
    """Return the lines of each cue, without those of the previous cue if captions roll (each line is shown twice).

    Captions roll if a third of them begin, without a pause, with what the previous one ended with: the same words in
    two cues with a pause between them are said twice.
    """
    plain = [[re.sub(r"<[^>]*>", "", line).strip() for line in shown] for *_, shown in cues]
    again = [0] * len(cues)
    for at in range(1, len(cues)):
        before, here = plain[at - 1], plain[at]
        if cues[at][0] - cues[at - 1][1] <= _ROLLING_PAUSE:
            lengths = range(min(len(before), len(here)), 0, -1)
            again[at] = next((shown for shown in lengths if here[:shown] == before[-shown:]), 0)
    if 3 * sum(map(bool, again)) < len(cues):
        return [shown for *_, shown in cues]
    return [shown[count:] for (*_, shown), count in zip(cues, again, strict=True)]
