"""Read start and end times: which columns say where a row's sentence lies in its audio file, and in which unit."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from job.fetch.table import RowError

#: Field -> the column names it is known by. Seconds, or hours:minutes:seconds; `_ms` are milliseconds.
NAMES: dict[str, tuple[str, ...]] = {
    "start": (
        *("start", "offset", "start_time", "begin_time", "begin", "segment_start", "start_sec", "start_secs"),
        *("start_seconds", "start_s", "offset_sec", "audio_start", "tmin", "xmin", "onset", "onset_s", "onset_sec"),
        *("start_time_s", "start_time_sec", "start_time_seconds", "starttime", "begin_s", "begin_sec", "begin_time_s"),
        *("begin_time_sec", "seg_start", "clip_start", "start_timestamp"),
    ),
    "end": (
        *("end", "end_time", "segment_end", "end_sec", "end_secs", "end_seconds", "end_s", "audio_end"),
        *("stop_time", "tmax", "xmax", "stop", "stop_s", "stop_sec", "end_time_s", "end_time_sec", "end_time_seconds"),
        *("endtime", "stop_time_s", "finish", "seg_end", "clip_end", "end_timestamp"),
    ),
    "duration": (
        *("duration", "duration_sec", "duration_secs", "duration_seconds", "duration_s", "dur"),
        *("audio_duration",),
    ),
    "start_ms": ("start_ms", "offset_ms", "begin_ms", "start_time_ms", "start_millis"),
    "end_ms": ("end_ms", "end_time_ms", "stop_ms", "end_millis"),
    "duration_ms": ("duration_ms", "dur_ms", "duration[ms]", "duration_millis"),
}

#: Tolerance, in seconds and as a share of the length, between the length that a row gives and the recording's own.
SLACK_SECONDS = 0.15
SLACK_SHARE = 0.02


#: The fields that determine where a sentence ends; one of them is enough.
ENDS = ("end", "end_ms", "duration", "duration_ms")


def settle_offset(found: dict[str, tuple[str, ...]], plain: Callable[[str], str]) -> None:
    """Treat `offset` as the end if there is an `onset` column, as in psychology and phonetics; in NeMo it is the start.

    Args:
        found: field -> its columns; changed in place.
        plain: normalizes a column's name for the lookup.
    """
    if any(plain(column).startswith("onset") for column in found["start"]):
        ends = tuple(column for column in found["start"] if plain(column).startswith("offset"))
        found["start"] = tuple(column for column in found["start"] if column not in ends)
        found["end"] += ends


@dataclass(frozen=True)
class Part:
    """A part of a recording, in seconds from the start of the file; `end=None` means up to the end of the file."""

    start: float
    end: float | None


def part(get: Callable[[str], Any], length: Callable[[], float], ends: bool = True) -> Part | None:
    """Return the part of its recording that a row refers to; None for the whole recording.

    Args:
        get: returns the row's value for one of the fields in `NAMES`, None if it has none.
        length: returns the recording's length in seconds from its header; called only if the row has any times.
        ends: whether the table has a column for the end or the duration; if so, a row without a value extends to the
            end of its recording. Without such a column, the next sentence may follow in the same recording.

    Raises:
        RowError: the times are not valid times, are in the wrong order, or cannot belong to this recording.
    """
    start, end = _seconds(get, "start"), _seconds(get, "end")
    duration = _seconds(get, "duration")
    if start is None and end is None:
        if duration is not None and get("duration_ms") is None:
            _check_duration(duration, length())
        return None
    begin = start or 0.0
    if end is None and duration is not None:
        end = begin + duration
    if end is not None and end <= begin:
        raise RowError("start and end are no part", f"{begin:g} to {end:g} s; the end must come after the start")
    there = length()
    slack = SLACK_SECONDS + SLACK_SHARE * there
    if end is None:
        if begin >= there:
            raise _beyond(begin, None, there)
        if not ends:
            raise RowError(
                "start without an end",
                f"the sentence begins at {begin:g} s of {there:.2f} s and no column says where it ends; call that "
                "column end or duration (seconds), or take the start out if it is all that follows",
            )
        return None if begin == 0 else Part(begin, None)
    if end <= there + SLACK_SECONDS:
        return None if begin == 0 and end >= there - SLACK_SECONDS else Part(begin, min(end, there))
    if abs(there - (end - begin)) <= slack:
        return None  # the times refer to a longer recording that was already cut: the file is the part
    raise _beyond(begin, end, there)


def _check_duration(duration: float, there: float) -> None:
    """Check a `duration` without a start against the recording: it must be the length of the whole recording.

    Raises:
        RowError: it is the length of another recording, or of a part.
    """
    for unit in (1, 1e3, 1e6, 1e9, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000):  # seconds … ns, or samples
        if math.isclose(duration / unit, there, rel_tol=SLACK_SHARE, abs_tol=SLACK_SECONDS):
            return
    raise RowError(
        "duration is not that of the recording",
        f"the row says {duration:g} s and the file has {there:.2f} s; "
        + ("give the row an offset too" if duration < there else "copy the file again")
        + ", or take the column out",
    )


def _beyond(begin: float, end: float | None, there: float) -> RowError:
    what = f"{begin:g} s" if end is None else f"{begin:g} to {end:g} s"
    return RowError(
        "start and end are not in the recording",
        f"{what} of a file of {there:.2f} s; seconds are meant (milliseconds go into start_ms and end_ms)",
    )


def _seconds(get: Callable[[str], Any], field: str) -> float | None:
    value = get(field)
    if _is_nothing(value):
        value = get(f"{field}_ms")
        return None if _is_nothing(value) else _number(value, field) / 1000.0
    return _number(value, field)


def _is_nothing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _number(value: Any, field: str) -> float:
    """Convert a number, a string of digits, or a time such as `1:02:03.5` to seconds.

    Raises:
        RowError: it is none of these, or negative.
    """
    seconds = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) if abs(value) < 1e12 else math.nan
    elif isinstance(value, str):
        text = value.strip().removesuffix("s").strip()
        if re.fullmatch(r"(\d{1,3}:)?\d{1,4}:\d{1,2}([.,]\d+)?", text):
            seconds = 0.0
            for unit in text.replace(",", ".").split(":"):
                seconds = seconds * 60 + float(unit)
        elif re.fullmatch(r"[+-]?\d{1,12}([.,]\d*)?|[.,]\d+", text):
            seconds = float(text.replace(",", "."))
    if not math.isfinite(seconds) or seconds < 0:
        raise RowError(f"{field} is no time", f"{str(value)[:40]!r}; write seconds, or rename the column")
    return seconds
