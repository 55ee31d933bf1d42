"""Parts of a recording: which columns say where a row's sentence begins and ends in its file, and what they mean."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from job.fetch.table import RowError

#: Field -> the columns it goes by. Seconds, or hours:minutes:seconds; `_ms` are milliseconds.
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

#: Seconds, and share of the length, by which what a row says of a recording's length may differ from what is there.
SLACK_SECONDS = 0.15
SLACK_SHARE = 0.02


#: The fields of which one says where a sentence ends.
ENDS = ("end", "end_ms", "duration", "duration_ms")


def settle_offset(found: dict[str, tuple[str, ...]], plain: Callable[[str], str]) -> None:
    """Make `offset` the end where there is an `onset`: psychologists' and phoneticians' tables mean it so, NeMo's not.

    Args:
        found: field -> its columns; changed in place.
        plain: a column's name as it is looked up.
    """
    if any(plain(column).startswith("onset") for column in found["start"]):
        ends = tuple(column for column in found["start"] if plain(column).startswith("offset"))
        found["start"] = tuple(column for column in found["start"] if column not in ends)
        found["end"] += ends


@dataclass(frozen=True)
class Part:
    """Seconds from the beginning of the file: from `start` to `end`, or to its end."""

    start: float
    end: float | None


def part(get: Callable[[str], Any], length: Callable[[], float], ends: bool = True) -> Part | None:
    """Which part of its recording a row means; None for all of it.

    Args:
        get: the row's value of one of the fields in `NAMES`, None where it has none.
        length: seconds of the recording by its header; asked for only when the row says anything about times.
        ends: whether the table has a column for the end or the duration; a row without one then goes on to the end of
            its recording. Without such a column the next sentence may follow in the recording.

    Raises:
        RowError: the times are no times, the wrong way round, or cannot be those of this recording.
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
        return None  # times in a longer recording, which has been cut: the file is the part
    raise _beyond(begin, end, there)


def _check_duration(duration: float, there: float) -> None:
    """Hold a `duration` without a start against the recording: it must be the recording's own.

    Raises:
        RowError: it is that of another recording, or of a part.
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
    """Seconds of a number, of its digits, or of `1:02:03.5`.

    Raises:
        RowError: it is none of these, or less than nothing.
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
