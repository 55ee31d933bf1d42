"""Cut long recordings that come with their whole text into a row for each sentence (ALIGN_MODEL)."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any

from job.audio.decode import CANNOT_READ, Recording, recording_of_parts
from job.audio.unusable import Unusable
from job.config.settings import Settings
from job.core import console, files, storage
from job.core.errors import BadInput
from job.fetch import pauses, stored_rows, values
from job.fetch.alignment import cuts, emissions, placing
from job.fetch.alignment.cuts import Said
from job.fetch.alignment.emissions import CtcModel
from job.fetch.alignment.matching import Heard
from job.fetch.audio_store import Store
from job.fetch.collect import PEEK_ROWS
from job.fetch.columns import Columns, choose
from job.fetch.recordings import LONGEST_SENTENCE
from job.fetch.table import TRANSCRIBED_BY, Row, RowError, Table, Unreadable
from job.fetch.transcript_store import Line, Region, TranscriptStore
from job.normalize import Normalizer
from job.text import sentences
from job.text.letters import letters

#: Letters per second, at least, of the text of a whole recording; recordings of rows with less text are not opened.
FEWEST_LETTERS = 3.0
#: Share of a text, at least, that must be found, unless text and recording have little to do with each other.
LEAST_FOUND = 0.3


class Aligning:
    """Finds the sentences of texts in long recordings; one for all splits of a run."""

    def __init__(self, settings: Settings, store: Store, kept: Callable[[], TranscriptStore]) -> None:
        self._settings = settings
        self._store = store
        self._stored = kept
        self._failed: BadInput | None = None
        self._on = settings.align_model != "none" and settings.transcribe != "always"
        self._normalizer = Normalizer("auto")

    @cached_property
    def _kept(self) -> TranscriptStore:
        return self._stored()

    @cached_property
    def _model(self) -> CtcModel:
        loaded = CtcModel(self._settings)
        console.say("fetch", f"the sentences of long recordings are found by {loaded.name} on {loaded.device}")
        return loaded

    def table(self, table: Table) -> Table:
        """Return the table with a row for each sentence in place of a row with a long recording and its whole text.

        Raises:
            BadInput: while reading, if the model cannot be loaded and is needed for most rows, or ALIGN_MODEL is set.
            Unreachable: likewise, if the model is on the Hub and the Hub cannot be reached.
        """
        if not self._on:
            return table
        columns = choose(table, self._settings)
        if columns.has_times and not columns.has_ends:
            return table  # an added end would be taken for that of rows that have a start only
        added = ["start", "end", *(["id"] if table.header else [])]

        def read() -> Iterator[Row | Unreadable]:
            long, left = 0, 0
            for row in table.read():
                if isinstance(row, Unreadable) or (text := self._long_text(columns, row)) is None:
                    left += 1
                    yield row
                    continue
                done = self._sentences(table, columns, row, text)
                long += done is not None
                left += done is None
                yield from [row] if done is None else done
            if self._failed is not None and long > left:
                raise type(self._failed)(f"{table.where}: {long} of {long + left} recordings are long. {self._failed}")

        return replace(table, columns=list(dict.fromkeys([*table.columns, *added])), read=read)

    def check(self, table: Table) -> None:
        """Check before a run that the model is there if most of the first rows need it.

        Raises:
            BadInput: it cannot be loaded, or is no CTC model.
            Unreachable: the Hub cannot be reached.
        """
        if not self._on or table.remote is not None or self._settings.paths.heard.is_file():
            return
        columns = choose(table, self._settings)
        rows = list(islice(table.read(), PEEK_ROWS))
        long = [row for row in rows if isinstance(row, Row) and self._is_long(table, columns, row)]
        if 2 * len(long) > len(rows):
            emissions.check(self._settings)

    def close(self) -> None:
        """Delete what was computed for recordings that have not been finished."""
        shutil.rmtree(self._settings.paths.alignment, ignore_errors=True)

    def _is_long(self, table: Table, columns: Columns, row: Row) -> bool:
        if self._long_text(columns, row) is None:
            return False
        try:
            *_, begin, end = stored_rows.located(self._store, table, columns, row)
        except RowError:
            return False
        return end - begin > self._settings.max_seconds

    def _long_text(self, columns: Columns, row: Row) -> str | None:
        """Return a row's text if its recording may be longer than MAX_SECONDS; else None."""
        if TRANSCRIBED_BY in row.values or any(row.values.get(c) is not None for c in columns.by_field["audio_codes"]):
            return None
        try:
            text = columns.value("text", row.values)
        except RowError:
            return None  # reported by the collector
        if not isinstance(text, str):
            return None
        fewest = FEWEST_LETTERS * self._settings.max_seconds
        return text if 6 * len(text) > fewest and letters(text) > fewest and len(sentences.split(text)) > 1 else None

    def _sentences(
        self, table: Table, columns: Columns, row: Row, text: str
    ) -> Iterator[Row | Unreadable] | list[Unreadable] | None:
        """Return a row for each sentence; None if the recording is not long."""
        try:
            path, times, begin, end = stored_rows.located(self._store, table, columns, row)
            if end - begin <= self._settings.max_seconds:
                return None
            language = values.optional_text(columns.value("language", row.values), "language")
        except RowError:
            return None  # reported by the collector
        longest = min(LONGEST_SENTENCE, self._settings.max_seconds)
        told = files.digest_bytes(text.encode())[:16]
        region = Region(path, *times, language or self._settings.language, longest, told)
        self._kept.begin(region)
        try:
            if not self._kept.is_done(region):
                if not self._loaded():
                    return [
                        Unreadable(
                            row.number, RowError("recording is too long", f"{path.name}: not aligned"), row.source
                        )
                    ]
                self._align(region, begin, end, text)
        except RowError as error:
            return [Unreadable(row.number, error, row.source)]
        except Unusable as error:
            return [
                Unreadable(row.number, RowError("audio cannot be read", f"{error.reason}: {error.detail}"), row.source)
            ]
        except CANNOT_READ as error:
            storage.check(error)
            return [Unreadable(row.number, RowError("audio cannot be read", str(error)[:200]), row.source)]
        return stored_rows.all_of(self._kept, columns, row, region, columns.by_field["text"][0])

    def _loaded(self) -> bool:
        """Load the model; return False if it cannot be had and nobody asked for it.

        Raises:
            BadInput, Unreachable: it cannot be loaded, and ALIGN_MODEL is set.
        """
        if self._failed is not None:
            return False
        try:
            return bool(self._model)
        except BadInput as error:
            if self._settings.align_model:
                raise
            self._failed = error  # raised only if most recordings are long
            console.warn("fetch", f"{error}; they are left out")
            return False

    def _align(self, region: Region, begin: float, end: float, text: str) -> None:
        """Find the sentences of a text in a recording and store them.

        Raises:
            RowError: text and recording have little in common.
        """
        model = self._model
        name = f"{self._kept.digest_of(region)}-{files.digest_bytes(model.name.encode())[:8]}"
        path = self._settings.paths.alignment / name
        recording = recording_of_parts(region.audio)
        parts = (text[first:last] for first, last in sentences.split(text))
        told = [part for part in parts if any(map(str.isalnum, part))]  # `* * *` is no sentence
        spelled = [model.spelling.words(self._normalizer.read(one, region.language).text) for one in told]
        emitted = model.emissions(recording, begin, end, path)
        heard = placing.listen(emitted, model.spelling)
        places = placing.place(emitted, heard, model.spelling, spelled)
        found = [self._entry(cut, told, places, region) for cut in self._cuts(recording, begin, end, places)]
        letters_of = [sum(map(len, words)) for words in spelled]
        kept = sum(letters_of[n] for n, one in enumerate(places) if isinstance(one, placing.Place))
        if kept < LEAST_FOUND * sum(letters_of):
            raise RowError(
                "text is not that of the recording",
                f"{region.audio.name}: {kept / max(1, sum(letters_of)):.0%} of its letters were found by {model.name}; "
                "see that they belong together, or set ALIGN_MODEL to a model that knows the language",
            )
        found += self._not_said(begin, told, places)
        found += self._without_text(begin, heard, places)
        found.sort(key=lambda line: (line["start"], line["end"]))
        self._kept.add((region, line) for line in found if not self._kept.has(region, line))
        self._kept.finish([region])
        path.unlink(missing_ok=True)
        good = [line for line in found if not line.get("reason")]
        count, seconds = len(told), sum(line["end"] - line["start"] for line in good)
        console.say(
            "fetch",
            f"{region.audio.name}: {sum(line['sentences'] for line in good)} of the {count} sentences of its text "
            f"found, {seconds / 60:.1f} of {(end - begin) / 60:.1f} min",
        )

    def _cuts(self, recording: Recording, begin: float, end: float, places: list[Any]) -> Iterator[cuts.Cut]:
        step = self._model.step
        said = [
            Said(number, begin + one.first * step, begin + one.last * step, one.fault)
            for number, one in enumerate(places)
            if isinstance(one, placing.Place)
        ]
        longest = min(LONGEST_SENTENCE, self._settings.max_seconds)
        stretches = pauses.stretches(recording, begin, end, longest)
        return cuts.cut(said, cuts.pauses(stretches, begin, end), longest, self._settings.max_seconds)

    def _entry(self, cut: cuts.Cut, told: list[str], places: list[Any], region: Region) -> Line:
        """Return the entry for a clip: its sentences as they are written."""
        numbers = [one.number for one in cut.sentences]
        text = " ".join(" ".join(told[number].split()) for number in numbers)
        reason, detail = cut.fault or (None, None)
        score = min(places[number].score for number in numbers)
        about = {"language": region.language, "confidence": round(math.exp(score), 3), "by": self._model.name}
        about |= {"sentences": len(numbers), "reason": reason, "detail": detail and f"{detail}: {text[:60]!r}"}
        return stored_rows.line((cut.start, cut.end), text, **about)

    def _not_said(self, begin: float, told: list[str], places: list[Any]) -> Iterator[Line]:
        """Yield an entry for each sentence that was not found, where it would be."""
        at = begin
        for text, one in zip(told, places, strict=True):
            if isinstance(one, placing.Place):
                at = begin + one.last * self._model.step
            else:
                place = (round(at, 3), round(at, 3))
                yield stored_rows.line(place, "", reason=one[0], detail=f"{one[1]}: {' '.join(text.split())[:60]!r}")

    def _without_text(self, begin: float, heard: Heard, places: list[Any]) -> Iterator[Line]:
        step, characters = self._model.step, self._model.spelling.characters
        for part in placing.without_text(heard, places):
            first, last = heard.frames[part][[0, -1]].tolist()
            spelled = "".join(characters[token] for token in heard.tokens[part].tolist())
            detail = f"{len(spelled)} letters were heard: {spelled[:60]!r}"
            place = (round(begin + first * step, 3), round(begin + last * step, 3))
            yield stored_rows.line(place, "", reason=placing.NO_TEXT, detail=detail)
