"""Reject rows in which a recogniser hears other words than their text (CHECK_WORDS).

The limit of the error rate is that of `job.prepare.thresholds`, or higher in a language that the recogniser hears
badly, as the other rows of it show. If what is heard is the text of another row, that row is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.dataset.prepared import SPLITS
from job.normalize.normalizer import Normalizer
from job.prepare import whose_words
from job.prepare.leaving_out import LeftOut
from job.prepare.manifest_rows import AUTO
from job.prepare.mismatch import compared_with, shifted_line
from job.prepare.thresholds import FEWEST_WRONG, MOST_WRONG, WORD_DEVIATIONS, WRONG_WORDS
from job.text.letter_errors import errors, forms

#: Reason of rejected rows, and warning of rows that are kept nevertheless.
REASON = "wrong_words"
#: Share of a source's rows, and number of rows, from which a shift is a problem of the whole source.
SHIFTED_SHARE, SHIFTED_ROWS = 0.1, 25
#: Imaginary rows with a good error rate that are added to a language's own, so that a few rows prove little.
_EXPECTED_ROWS, _EXPECTED_RATE = 10, 0.05
#: Most characters of what was heard in a message.
_SHOWN = 160

#: Split and line of its manifest.
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Heard:
    """What a recogniser heard in a row: the text, Whisper's code of the language, and whether it can be judged by."""

    text: str
    language: str | None
    judged: bool


@dataclass(frozen=True, slots=True)
class WrongWords:
    """Result: rows to reject, problems of whole sources, and what else there is to say, one line each."""

    rows: LeftOut
    problems: list[str]
    notes: list[str]


@dataclass(slots=True)
class _Row:
    """A row that can be judged; `texts` and `words` are the forms (`letter_errors`) of its text and transcript."""

    place: Place
    number: int
    source: tuple[str, str]
    language: str
    text: str
    texts: list[str] = field(repr=False)
    words: list[str] = field(repr=False)
    wrong: int
    letters: int

    @property
    def rate(self) -> float:
        return self.wrong / self.letters

    def is_over(self, limit: float) -> bool:
        return self.rate > limit and self.wrong >= FEWEST_WRONG


class Words:
    """Compare the texts of all usable rows, shard by shard, with what was heard in them."""

    def __init__(self, heard: Mapping[Place, Heard]) -> None:
        self._heard = heard
        self._rows: dict[Place, _Row] = {}

    def add(self, split: str, table: pa.Table) -> None:
        """Add the usable rows of a shard (`shard_schema`)."""
        if not self._heard:
            return
        names = ("position", "number", "source", "language", "text")
        for row in table.filter(table["reason"].is_null()).select(names).to_pylist():
            heard = self._heard.get((split, row["position"]))
            if heard is None or not heard.judged:
                continue
            language = heard.language or "" if row["language"] == AUTO else row["language"]
            texts, words = (forms(one, language, _in_words) for one in (row["text"], heard.text))
            wrong, letters = errors(texts, words)
            if letters:
                place, source = (split, row["position"]), (split, row["source"])
                group = compared_with(row["language"], row["text"])
                self._rows[place] = _Row(place, row["number"], source, group, row["text"], texts, words, wrong, letters)

    def heard(self, place: Place) -> str | None:
        """What was heard in a row; None if it was not transcribed."""
        return self._heard[place].text if place in self._heard else None

    def rate(self, place: Place) -> float | None:
        """The character error rate of a row; None if it was not judged."""
        return self._rows[place].rate if place in self._rows else None

    def compare(self) -> WrongWords:
        """Find the rows with wrong words."""
        owners, problems, notes = self._owners()
        wrong: dict[Place, str] = {}
        languages: dict[str, list[_Row]] = {}
        for row in self._rows.values():
            languages.setdefault(row.language, []).append(row)
        for language, rows in languages.items():
            rest = [row for row in rows if row.place not in owners]
            named = [row for row in rows if row.place in owners]  # heard well: their words are known
            limit = limit_of(np.array([row.rate for row in rest] + [_EXPECTED_RATE] * len(named)))
            over = [row for row in rest if row.is_over(limit)]
            if limit > MOST_WRONG or 2 * len(over) > len(rows):
                notes.append(_unfit(language, rest))
                over = []
            wrong |= {row.place: self._detail(row, limit, owners.get(row.place)) for row in over}
            wrong |= {row.place: self._detail(row, WRONG_WORDS, owners[row.place]) for row in named}
        details = {(SPLITS.index(split), position): detail for (split, position), detail in wrong.items()}
        return WrongWords(LeftOut.of(REASON, details), problems, notes)

    def _owners(self) -> tuple[dict[Place, _Row], list[str], list[str]]:
        """Find the rows that say another row's text, with that row; and what is to be said about whole sources."""
        found: dict[Place, _Row] = {}
        problems, notes = list[str](), list[str]()
        sources: dict[tuple[str, str], list[_Row]] = {}
        for row in self._rows.values():
            sources.setdefault(row.source, []).append(row)
        for (_, name), rows in sources.items():
            numbers = [row.number for row in rows]
            suspects = [(index, row.rate) for index, row in enumerate(rows) if row.is_over(WRONG_WORDS)]
            texts, words = [row.texts[-1] for row in rows], [row.words[-1] for row in rows]
            others = whose_words.owners(numbers, texts, words, suspects, _rate)
            at = dict(zip(numbers, rows, strict=True))
            found |= {rows[index].place: at[numbers[index] + by] for index, by in others.items()}
            if shift := whose_words.shift(numbers, others):
                many = shift[1] >= min(SHIFTED_ROWS, SHIFTED_SHARE * len(rows))
                (problems if many else notes).append(shifted_line(shift[0], name))
        return found, problems, notes

    def _detail(self, row: _Row, limit: float, other: _Row | None) -> str:
        said = self._heard[row.place].text
        heard = f"heard {said[:_SHOWN]!r}" if said else "no words were heard"
        figure = f"character error rate {row.rate:.0%}, over the limit of {limit:.0%}: {heard}"
        if other is not None:
            return f"{figure}; its audio says the text of row {other.number} ({other.text[:_SHOWN]!r}): pair them anew"
        return f"{figure}; give the row the words that are said in its recording, or set QUALITY_GATE=off to keep it"


def limit_of(rates: NDArray[np.float64]) -> float:
    """The largest error rate of a language's good rows, from all its rows (n,); at least `WRONG_WORDS`."""
    rates = np.concatenate([rates, np.full(_EXPECTED_ROWS, _EXPECTED_RATE)])
    median = float(np.median(rates))
    deviation = 1.4826 * float(np.median(np.abs(rates - median)))
    return max(WRONG_WORDS, median + WORD_DEVIATIONS * deviation)


def _unfit(language: str, rows: list[_Row]) -> str:
    middle = float(np.median([row.rate for row in rows]))
    return (
        f"{REASON}: the recogniser does not hear {language} well enough to judge its {len(rows)} rows (median "
        f"character error rate {middle:.0%}), or most of their texts are wrong, so none is left out for its words; "
        "read a few in data/heard_words, and set ASR_MODEL to a recogniser that knows the language"
    )


def _rate(text: str, transcript: str) -> float:
    wrong, letters = errors([text], [transcript])
    return wrong / letters if letters else 1.0


@cache
def _normalizer() -> Normalizer:
    return Normalizer("auto")


def _in_words(text: str, language: str) -> str:
    return _normalizer().read(text, language or None).text
