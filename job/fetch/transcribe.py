"""Transcribe the recordings of rows that have no text, after cutting long ones at pauses (TRANSCRIBE)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from job.audio import clip, measure, speech
from job.audio.decode import CANNOT_READ, Recording, recording_of_parts
from job.audio.unusable import Unusable
from job.config.settings import Settings
from job.core import console, storage
from job.core.errors import BadInput
from job.fetch import pauses, stored_rows, values
from job.fetch.audio_store import Store
from job.fetch.columns import Columns, choose
from job.fetch.table import Row, RowError, Table, Unreadable
from job.fetch.transcript_store import Region, TranscriptStore
from job.model.recogniser import RATE, Recogniser, whisper_code

#: Longest piece into which a recording is cut, and longest recording that is transcribed uncut, in seconds.
LONGEST_PIECE, LONGEST_WHOLE = 20.0, 30.0
#: Clips collected before they are transcribed together; the order of the rows is kept.
AHEAD = 16


@dataclass(frozen=True)
class _Clip:
    """A clip of a row's recording: the whole of it, or a part in seconds.

    If it is still to be transcribed, it has mono `samples` at `RATE` Hz and Whisper's `code` of the language.
    """

    row: Row
    region: Region
    start: float | None
    end: float | None
    samples: clip.Samples | None = None
    code: str | None = None


@dataclass(frozen=True)
class _Rest:
    """Marks the end of a row's clips. If all of them are `known` from an earlier run, it replaces them."""

    row: Row
    region: Region
    known: bool


_Item = Row | Unreadable | _Clip | _Rest


class Transcribing:
    """Transcribes the recordings without texts in a run's tables; one for all splits, since they share the files."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._failed: BadInput | None = None
        self._untold = self._told = 0

    @cached_property
    def kept(self) -> TranscriptStore:
        """The transcripts of this run, and of those before it."""
        return TranscriptStore(self._settings.paths)

    @cached_property
    def _recogniser(self) -> Recogniser:
        loaded = Recogniser(self._settings)
        console.say("fetch", f"recordings without texts are transcribed by {loaded.name} on {loaded.device}")
        return loaded

    def table(self, table: Table) -> Table:
        """Return the table with a text in every row that can be transcribed; a long recording becomes several rows.

        Raises:
            BadInput: no column looks like the audio; or, while reading, the recogniser cannot be loaded or does not
                know the language.
            Unreachable: while reading, if the recogniser is on the Hub and the Hub cannot be reached.
        """
        if self._settings.transcribe == "never":
            return table
        columns = choose(table, self._settings, needs_text=False)
        if not columns.by_field["audio"]:
            return table
        cuts = columns.has_ends or not columns.has_times
        text = (columns.by_field["text"] or ("text",))[0]
        added = [text, *(["start", "end"] if cuts else [])]
        if table.header:  # without a header, columns are found by their contents
            added += ["id", *([] if columns.by_field["language"] else ["language"])]

        def read() -> Iterator[Row | Unreadable]:
            self._untold = self._told = 0
            waiting: list[_Item] = []
            for row in table.read():
                for item in self._items(table, columns, row, cuts):
                    waiting.append(item)
                    if sum(isinstance(one, _Clip) and one.samples is not None for one in waiting) in (0, AHEAD):
                        yield from self._answers(columns, waiting, text)
                        waiting = []
            yield from self._answers(columns, waiting, text)
            if self._failed is not None and self._untold > self._told:
                rows = f"no text in {self._untold} of {self._untold + self._told} rows"
                raise type(self._failed)(f"{table.where}: {rows}. {self._failed}")

        return replace(table, columns=list(dict.fromkeys([*table.columns, *added])), read=read, total=None)

    def assumed(self, table: Table) -> Table:
        """Return the table with placeholder texts, for checks before a run: no model is loaded, nothing transcribed.

        Raises:
            BadInput: no column looks like the audio, or Whisper does not know LANGUAGE.
        """
        if self._settings.transcribe == "never":
            return table
        columns = choose(table, self._settings, needs_text=False)
        text = (columns.by_field["text"] or ("text",))[0]

        def read() -> Iterator[Row | Unreadable]:
            for row in table.read():
                if isinstance(row, Row) and has_no_text(columns, row, self._settings):
                    self._code(None, "")
                    row = Row(row.number, {**row.values, text: "(to be transcribed)"}, row.source)
                yield row

        return replace(table, columns=list(dict.fromkeys([*table.columns, text])), read=read)

    def _items(self, table: Table, columns: Columns, row: Row | Unreadable, cuts: bool) -> Iterator[_Item]:
        """Yield a row unchanged, or the clips to transcribe for it."""
        if isinstance(row, Unreadable) or not has_no_text(columns, row, self._settings):
            self._told += 1
            yield row
            return
        self._untold += 1
        try:
            yield from self._clips(table, columns, row, cuts)
        except RowError as error:
            yield Unreadable(row.number, error, row.source)
        except Unusable as error:
            yield Unreadable(
                row.number, RowError("audio cannot be read", f"{error.reason}: {error.detail}"), row.source
            )
        except CANNOT_READ as error:
            storage.check(error)
            yield Unreadable(row.number, RowError("audio cannot be read", str(error)[:200]), row.source)

    def _clips(self, table: Table, columns: Columns, row: Row, cuts: bool) -> Iterator[_Clip | _Rest]:
        path, times, begin, end = stored_rows.located(self._store, table, columns, row)
        if end - begin < self._settings.min_seconds:
            raise RowError("too short to transcribe", f"{path.name}: {end - begin:.2f} s, less than MIN_SECONDS")
        language = values.optional_text(columns.value("language", row.values), "language")
        code = self._code(language, f"{table.where} row {row.number}")
        longest = min(LONGEST_PIECE, self._settings.max_seconds)
        region = Region(path, times[0], times[1], language or self._settings.language, longest)
        self.kept.begin(region)
        if self.kept.is_done(region):
            yield _Rest(row, region, known=True)
            return
        recording = recording_of_parts(path)
        if end - begin <= min(LONGEST_WHOLE, self._settings.max_seconds):
            yield self._clip(row, region, recording, times, code)
        elif not cuts:
            raise RowError("too long to transcribe", f"{path.name}: {end - begin:.1f} s; give the rows an end as well")
        else:
            place = None
            for piece in pauses.pieces(pauses.stretches(recording, begin, end, longest), begin, end, longest):
                place = (piece.start, piece.end)
                if piece.fault is not None:
                    self._keep_out(region, place, *piece.fault)
                yield self._clip(row, region, recording, place, code)
            if place is None:
                self._keep_out(region, (begin, end), "no speech", "nothing that may be a word")
                yield _Clip(row, region, begin, end)
        yield _Rest(row, region, known=False)

    def _keep_out(self, region: Region, times: tuple[Any, Any], reason: str, detail: str) -> None:
        if self.kept.heard(region, *times) is None:
            self.kept.add([(region, stored_rows.line(times, "", reason=reason, detail=detail))])

    def _code(self, language: str | None, where: str) -> str | None:
        """Return Whisper's code for a row's language, else for LANGUAGE; None to detect the language."""
        where = f"{where}: language {language}" if language else f"LANGUAGE={self._settings.language}"
        return whisper_code(language or self._settings.language, self._settings.asr_model, where)

    def _clip(self, row: Row, region: Region, recording: Recording, times: tuple[Any, Any], code: str | None) -> _Clip:
        """Read a clip, unless it was already transcribed or has no speech: Whisper makes up words for silence."""
        if self.kept.heard(region, *times) is not None:
            return _Clip(row, region, *times)
        rate, (start, end) = recording.rate, times
        first, last = (0, recording.length) if start is None else (round(start * rate), round(end * rate))
        samples = np.nan_to_num(measure.mix(recording.read_part(first, last)), posinf=1.0, neginf=-1.0)
        found = speech.detector().listen(samples, rate) if len(samples) else None
        if found is None or found.fault == "no_speech":
            sure = 0.0 if found is None else found.surest
            self._keep_out(region, times, "no speech", f"the surest place has the probability {sure:.2f}")
            return _Clip(row, region, *times)
        return _Clip(row, region, *times, clip.resample(samples, rate, RATE), code)

    def _transcribe(self, clips: list[_Clip]) -> None:
        """Transcribe clips and store the transcripts.

        Raises:
            BadInput, Unreachable: the recogniser cannot be loaded, and ASR_MODEL is set or TRANSCRIBE=always.
        """
        try:
            recogniser = self._recogniser
        except BadInput as error:
            if self._settings.asr_model or self._settings.transcribe == "always":
                raise
            self._failed = error  # raised only if most rows have no text
            console.warn("fetch", f"{error}; they are left out")
            return
        for code in dict.fromkeys(one.code for one in clips):
            some = [one for one in clips if one.code == code]
            found = []
            told = recogniser.transcribe([one.samples for one in some if one.samples is not None], code)
            for one, said in zip(some, told, strict=True):
                reason, detail = said.doubt() or (None, None)
                figures = {"confidence": said.confidence, "no_speech": said.no_speech, "heard_language": said.language}
                about = {"language": one.region.language, **figures, "by": recogniser.name}
                about |= {"reason": reason, "detail": detail}
                found.append((one.region, stored_rows.line((one.start, one.end), said.text, **about)))
            self.kept.add(found)

    def _answers(self, columns: Columns, items: list[_Item], text: str) -> Iterator[Row | Unreadable]:
        """Yield rows with texts in place of the clips, and the reason for each rejected clip."""
        clips = [one for one in items if isinstance(one, _Clip) and one.samples is not None]
        if clips and self._failed is None:
            self._transcribe(clips)
        if self._failed is None:
            self.kept.finish([one.region for one in items if isinstance(one, _Rest) and not one.known])
        for item in items:
            if isinstance(item, Row | Unreadable):
                yield item
            elif isinstance(item, _Rest):
                if item.known:
                    yield from stored_rows.all_of(self.kept, columns, item.row, item.region, text)
            elif (line := self.kept.heard(item.region, item.start, item.end)) is None:
                yield Unreadable(
                    item.row.number, RowError("no text", f"{item.region.audio.name}: not transcribed"), item.row.source
                )
            elif line.get("reason"):
                yield stored_rows.left_out(item.row, item.region, line)
            else:
                place = replace(item.region, start=item.start, end=item.end)
                yield from stored_rows.rows(self.kept, columns, item.row, item.region, place, text)


def has_no_text(columns: Columns, row: Row, settings: Settings) -> bool:
    """Whether a row needs to be transcribed."""
    if any(row.values.get(column) is not None for column in columns.by_field["audio_codes"]):
        return False
    if settings.transcribe == "always":
        return True
    try:
        values.required_text(columns.value("text", row.values))
    except RowError as error:
        return error.kind in values.NO_TEXT
    return False
