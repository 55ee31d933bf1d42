"""Notice columns that say where in a recording a row's words are, under names that are not known.

Each row would otherwise be trained on the whole recording: on seconds of speech that its words are not of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from job.core.errors import BadInput
from job.fetch.columns import Columns
from job.fetch.guess import plain_name

#: Words in the names of columns for a beginning, for an end, and for a length.
_STARTS = {"start", "begin", "from", "onset", "offset", "in", "xmin", "tmin", "t0", "starttime", "startzeit"}
_STARTS |= {"starttid", "anfang", "beginn", "von", "debut", "début", "inicio", "início", "inizio", "fra", "desde"}
_STARTS |= {"da", "de", "farko"}
_ENDS = {"end", "stop", "to", "until", "finish", "out", "xmax", "tmax", "t1", "endtime", "endzeit", "sluttid", "ende"}
_ENDS |= {"bis", "fin", "fine", "fim", "slutt", "til", "hasta", "até", "karshe"}
_LENGTHS = {"num", "duration", "length", "dur", "len", "dauer", "varighet", "durée"}
_SAMPLES = {"sample", "samples", "frame", "frames"}
#: Units of such columns, as a number of them in a second: seconds, milliseconds, and samples at the usual rates.
_UNITS = (1, 1000)
_RATES = (8000, 16000, 22050, 24000, 32000, 44100, 48000)
#: Seconds that a time may be off, the shortest part in seconds and the longest as a share of its recording.
_SLACK, _LEAST, _MOST = 0.15, 0.2, 0.8
#: How many rows are looked at.
_LOOKED_AT = 20
#: Number of rows whose times are places in their recordings by which this is told.
_ENOUGH = 3


class UnknownTimes:
    """Looks at the first rows of each table that has no known column for times."""

    def __init__(self) -> None:
        self._looked: Counter[str] = Counter()
        self._fits: Counter[tuple[str, str, str]] = Counter()

    def look(self, where: str, columns: Columns, row: Mapping[str, Any], length: Callable[[], float]) -> None:
        """Look at a row.

        Args:
            where: the table, for the message.
            length: returns the recording's length in seconds; called only if the row may have a place in it.

        Raises:
            BadInput: the table has two columns that are places in the recordings.
        """
        if self._looked[where] >= _LOOKED_AT:
            return
        self._looked[where] += 1
        numbers = {c: n for c, v in row.items() if c not in columns.used and (n := _number(v)) is not None}
        for first, start in numbers.items():
            for last, end in numbers.items():
                words, others = set(plain_name(first).split("_")), set(plain_name(last).split("_"))
                if first == last or not words & _STARTS or not others & (_ENDS | _LENGTHS) or others & _STARTS:
                    continue
                units = _RATES if (words | others) & _SAMPLES else _UNITS
                stop = start + end if others & _LENGTHS else end
                if 0 <= start < stop and _fits(start, stop, length(), units):
                    self._fits[where, first, last] += 1
                if self._fits[where, first, last] >= max(_ENOUGH, 0.5 * self._looked[where]):
                    raise BadInput(
                        f"{where}: columns {first} and {last} look like places in the recordings ({first}={start:g}, "
                        f"{last}={end:g}) and are not used, so that each row would have the whole recording; call them "
                        "start and end (seconds), start_ms and end_ms, or start and duration, or take them out"
                    )


def _fits(start: float, stop: float, length: float, units: tuple[int, ...]) -> bool:
    """Whether, in any of the units, this is a part of a recording, and neither all of it nor too short for a word."""
    whole = start.is_integer() and stop.is_integer()
    return any(
        stop / unit <= length + _SLACK and _LEAST <= (stop - start) / unit <= _MOST * length
        for unit in units
        if whole or unit == 1
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        parts = [float(part) for part in str(value).strip().replace(",", ".").split(":")]
    except ValueError:
        return None
    number = 0.0
    for part in parts:
        number = 60 * number + part
    return number if len(parts) <= 3 and abs(number) < 1e12 else None
