"""Detect rows whose text does not match their recording, by comparing the lengths of the two.

A `Lengths` collects the length of each text and recording, shard by shard. `Lengths.compare` then checks whether texts
and recordings are shifted against each other (`job.prepare.shifted`), and which rows are outliers (`job.prepare.fit`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.prepare import fit, shifted
from job.prepare.encode import Item
from job.prepare.leaving_out import LeftOut
from job.prepare.manifest_rows import AUTO
from job.prepare.noted import Column, Noted
from job.text.letters import letters, script

#: Reason of rejected rows, and warning of rows that are kept although they do not fit.
REASON = "text_mismatch"
#: Most sources to list when several are shifted or shuffled.
NAMED = 3
#: Lower bound on the measured sound, in seconds; anything shorter is treated as this long.
_LEAST_SOUND = 0.05

#: Columns collected per usable row (45 bytes). `language`, `source` and `speaker` are indices into lists of names.
_NOTED: dict[str, type[Any]] = {
    "split": np.uint8,
    "position": np.int64,
    "number": np.int64,
    "source": np.int32,
    "language": np.int32,
    "speaker": np.int32,
    "letters": np.float64,
    "heard": np.float64,
}


@dataclass(frozen=True, slots=True)
class Mismatches:
    """Result of the comparison: `problems` of whole sources, one line each, and the rows that do not fit."""

    problems: list[str]
    rows: LeftOut


class Lengths:
    """Collect the lengths of texts and recordings of all usable rows."""

    def __init__(self) -> None:
        self._names: dict[str, dict[Any, int]] = {"source": {}, "language": {}, "speaker": {}}
        self._noted = Noted(_NOTED)
        self._impossible = Column(np.bool_)

    def add(self, split: str, table: pa.Table) -> None:
        """Add the usable rows of a shard (`store.shard_schema`)."""
        table = table.filter(table["reason"].is_null())
        sources = [(split, source) for source in table["source"].to_pylist()]
        values = {
            "source": self._numbers("source", sources),
            "language": self._numbers("language", list(map(compared_with, *_lists(table, "language", "text")))),
            "speaker": self._numbers("speaker", table["speaker"].to_pylist()),
        }
        self._noted.add(split, table, values)
        self._impossible.add([REASON in found for found in table["warnings"].to_pylist()])

    def compare(self) -> Mismatches:
        """Find rows and sources that do not fit. If whole sources do not, only impossible single rows are reported."""
        noted = self._noted.columns()
        impossible = self._impossible.take()
        said, heard = noted["letters"], noted["heard"]
        problems = self._problems(noted)
        low, high = fit.bounds(said, heard, noted["language"], noted["speaker"])
        rates = said / heard
        out = impossible if problems else impossible | (rates < low) | (rates > high)
        rows = np.flatnonzero(out)
        sizes = np.bincount(noted["language"], minlength=len(self._names["language"]))
        names = list(self._names["language"])
        details = []
        for row in rows:
            language = noted["language"][row]
            known = names[language] if sizes[language] >= fit.FEWEST else ""
            details.append(_detail(said[row], heard[row], (low[row], high[row]), known))
        return Mismatches(problems, LeftOut(REASON, noted["split"][rows], noted["position"][rows], details))

    def _numbers(self, column: str, values: list[Any]) -> list[int]:
        known = self._names[column]
        return [known.setdefault(value, len(known)) for value in values]

    def _problems(self, noted: dict[str, NDArray[Any]]) -> list[str]:
        """Describe sources with shifted or shuffled texts; if there are none, languages with shuffled ones."""
        said, heard = noted["letters"], noted["heard"]
        found: list[str] = []
        sources = list(self._names["source"])
        for rows in fit.groups(noted["source"]):
            _, source = sources[noted["source"][rows[0]]]
            shift = shifted.find_shift(said[rows], heard[rows], noted["number"][rows])
            if shift:
                found.append(shifted_line(shift, source))
            elif (together := shifted.unrelated(said[rows], heard[rows])) is not None:
                found.append(_shuffled(f"the {len(rows)} rows of {source}", together))
        languages = list(self._names["language"])
        for rows in [] if found else fit.groups(noted["language"]):
            if (together := shifted.unrelated(said[rows], heard[rows])) is not None:
                found.append(_shuffled(f"{len(rows)} rows of {languages[noted['language'][rows[0]]]}", together))
        more = len(found) - NAMED
        return found if more <= 0 else [*found[:NAMED], f"{more} more sources are like this"]


def measures(item: Item, frame_rate: float) -> dict[str, float]:
    """Measure a row for the comparison: `letters` of the text, and seconds `heard` without leading or trailing silence.

    A row that arrived encoded counts at its full length, since its silence is unknown.
    """
    sound = 0.0 if item.codes is None else len(item.codes) / frame_rate
    if item.figures is not None:
        sound = item.figures.seconds - item.figures.lead - item.figures.trail
    return {"letters": letters(item.row.text), "heard": max(sound, _LEAST_SOUND)}


def compared_with(language: str, text: str) -> str:
    """Name the group a row is compared within: its language or, if that is left to the model, its script."""
    return f"{script(text) or 'no'} script" if language == AUTO else language


def _lists(table: pa.Table, *names: str) -> list[list[Any]]:
    return [table[name].to_pylist() for name in names]


def _detail(said: float, heard: float, bounds: tuple[float, float], language: str) -> str:
    """Explain a rejection in one line for rejected.jsonl; `language` is "" if too few rows could be compared."""
    rate = said / heard
    others = f"rows of {language} say" if language else "people say"
    expected = f"{others} {bounds[0]:.1f} to {bounds[1]:.1f} a second"
    if bounds[0] <= rate <= bounds[1]:
        expected = "nobody speaks like that"
    elif not bounds[0]:
        expected = f"{others} at most {bounds[1]:.1f} a second"
    return (
        f"text as long as {said:.0f} letters in {heard:.1f} s of sound, {rate:.1f} a second; {expected}: "
        "give the row the words that are said in its recording, all of them and no others"
    )


def shifted_line(shift: shifted.Shift, source: str) -> str:
    """Say in one line which rows of a source are shifted, and what to do about it."""
    rows = "one row" if abs(shift.by) == 1 else f"{abs(shift.by)} rows"
    where = "before" if shift.by < 0 else "after"
    until = "on" if shift.to_the_end else f"to row {shift.last}"
    place = f"is missing or there twice just before row {shift.first}"
    if shift.first <= 1 + abs(shift.by):
        place = "the list of texts or that of recordings has at its beginning and the other has not (a header, a title)"
    return (
        f"from row {shift.first} {until} each text is about the recording {rows} {where} it ({source}): texts and "
        f"recordings are shifted against each other; look for what {place}, and pair the rows anew"
    )


def _shuffled(rows: str, together: float) -> str:
    return (
        f"{rows} have texts that do not belong to their recordings: long texts are not with long recordings (their "
        f"lengths have a rank correlation of {together:.2f}, where matching ones have 0.7 and more); pair texts and "
        "recordings anew, by the names of the files and not by the order of two lists"
    )
