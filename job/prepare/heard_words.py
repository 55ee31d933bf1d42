"""Transcribe each row's recording once, so that its text can be compared with what is said in it (CHECK_WORDS).

What was heard is appended to logs, one per process. A line of them is found by the contents of the recording, the part
of it, the recogniser and the language, so that a rerun transcribes only what is new.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from job.audio.clip import Samples, load
from job.audio.decode import CANNOT_READ
from job.audio.unusable import Unusable
from job.config.settings import Settings
from job.core import append_log, console, files, storage
from job.core.errors import BadInput, Unreachable
from job.core.threads import in_order
from job.dataset.prepared import SPLITS
from job.model import recogniser
from job.model.recogniser import NO_END, RATE, REPEATS, Recogniser, Transcript, model_name, whisper_code
from job.prepare import shards
from job.prepare.admitted import within_limits
from job.prepare.readers import readers
from job.prepare.work import STAGE, Work
from job.prepare.wrong_words import Heard, Place

#: Longest clip that is transcribed in one piece, in seconds; longer ones are cut into equal pieces.
LONGEST = 28.0
#: Clips collected before they are transcribed and logged: what is lost at most when a run is killed.
AHEAD = 32
#: Most hours of recordings that CHECK_WORDS=auto transcribes without a GPU.
MOST_HOURS = 0.25
#: What the recogniser is needed for, and what to set to do without it.
_NEED = ("compare texts with recordings", "CHECK_WORDS=never to leave them uncompared")
_COLUMNS = ("position", "audio", "start", "end", "language", "seconds")

_Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Recording:
    """A row's recording."""

    place: Place
    audio: Path
    start: float | None
    end: float | None
    language: str
    seconds: float


def check(settings: Settings) -> None:
    """Fail before anything is encoded if texts are to be compared and the recogniser cannot be loaded.

    Raises:
        BadInput: it cannot be loaded.
        Unreachable: the Hub cannot be reached, and CHECK_WORDS=always.
    """
    if not _is_wanted(settings):
        return
    try:
        recogniser.check(settings, *_NEED)
    except Unreachable:
        if settings.check_words == "always":
            raise


def _is_wanted(settings: Settings) -> bool:
    return settings.check_words == "always" or (settings.check_words == "auto" and settings.asr_model is not None)


def hear(work: Work, rank: int = 0, world: int = 1) -> dict[Place, Heard]:
    """Return what is said in the usable rows, after transcribing what is new; empty if CHECK_WORDS says so.

    Of `world` processes, each transcribes the rows of the shards that it encodes. All rows must be encoded already.

    Raises:
        BadInput: ASR_MODEL cannot be loaded.
        Unreachable: the Hub cannot be reached, and CHECK_WORDS=always.
    """
    settings = work.settings
    if not _is_wanted(settings):
        return {}
    name = model_name(settings, work.device)
    rows = [row for row in _recordings(work) if work.manifest.transcribed[row.place[0]].get(row.place[1]) != name]
    hours = sum(row.seconds for row in rows) / 3600
    if settings.check_words == "auto" and work.device.type == "cpu" and hours > MOST_HOURS:
        console.say(
            STAGE,
            f"the texts are not compared with what ASR_MODEL hears: {hours:.1f} h would take long without a GPU "
            "(CHECK_WORDS=always does it nevertheless)",
        )
        return {}
    mine = [row for row in rows if row.place[1] // shards.LINES % world == rank]
    found = _Listener(work, name, rank, world).listen(mine)
    if world == 1:
        console.say(STAGE, f"the texts of {len(found)} rows are compared with what {name} hears in them")
    return found


def _recordings(work: Work) -> Iterator[_Recording]:
    """Yield the recordings of the usable rows, in order; rows that arrived encoded have none."""
    for split in SPLITS:
        for table in within_limits(work, split):
            usable = table.filter(table["reason"].is_null()).select(_COLUMNS)
            for row in usable.filter(usable["audio"].is_valid()).to_pylist():
                place = (split, row.pop("position"))
                yield _Recording(place, Path(os.fsdecode(row.pop("audio"))), **row)


class _Listener:
    """Transcribes recordings that are not in the logs of the work directory."""

    def __init__(self, work: Work, name: str, rank: int, world: int) -> None:
        self._work = work
        self._by = files.named_identity(name)
        self._path = work.settings.paths.heard_words / f"{rank}.jsonl"
        self._readers = readers(work.settings, work.device, -(-world // work.settings.num_nodes))
        self._kept: dict[_Key, Heard] = {}
        append_log.read(self._path)  # mends the end of this process's own log
        for path in sorted(self._path.parent.glob("*.jsonl")):
            for line in append_log.valid_lines(path.read_bytes()):
                self._kept[_key_of(line)] = Heard(line["text"], line.get("language"), line["judged"])
        self._contents: dict[Path, str] = {}
        self._codes: dict[str, str | None] = {}
        self._unknown: set[str] = set()
        self._refused: set[str | None] = set()

    @cached_property
    def _recogniser(self) -> Recogniser:
        loaded = Recogniser(self._work.settings, *_NEED)
        console.say(STAGE, f"recordings are transcribed by {loaded.name} on {loaded.device} to check their texts")
        return loaded

    def listen(self, rows: list[_Recording]) -> dict[Place, Heard]:
        """Return what is heard in the rows, by their places; rows in languages that it does not know are left out."""
        self._find_codes(rows)
        rows = [row for row in rows if row.language not in self._unknown]
        keys: dict[Place, _Key] = {}
        waiting: dict[_Key, Samples] = {}
        try:
            read = in_order(rows, self._read, self._readers)
            for row, key, samples in console.progress(read, stage=STAGE, total=len(rows), unit="rows heard"):
                keys[row.place] = key
                if samples is not None:
                    waiting[key] = samples
                if len(waiting) >= AHEAD:
                    self._transcribe(waiting)
                    waiting = {}
            self._transcribe(waiting)
        except Unreachable as error:
            if self._work.settings.check_words == "always":
                raise
            console.warn(STAGE, f"{error}; their texts are not compared with what is said")
        return {place: self._kept[key] for place, key in keys.items() if key in self._kept}

    def _find_codes(self, rows: list[_Recording]) -> None:
        """Find Whisper's codes of the rows' languages; languages that it does not know are named once."""
        for language in dict.fromkeys(row.language for row in rows):
            try:
                self._codes[language] = whisper_code(language, self._work.settings.asr_model, language)
            except BadInput:
                self._unknown.add(language)
                unheard = (
                    f"so the texts of its rows are not compared with what is said ({self._work.settings.asr_model})"
                )
                console.warn(STAGE, f"ASR_MODEL does not know {language}, {unheard}")

    def _read(self, row: _Recording) -> tuple[_Recording, _Key, Samples | None]:
        """Read a row's recording; None instead of samples if it is in the logs or can no longer be read."""
        try:
            if row.audio not in self._contents:
                self._contents[row.audio] = files.digest_ends(row.audio)
            key = (self._contents[row.audio], row.start, row.end, self._codes[row.language], self._by)
            if key in self._kept:
                return row, key, None
            return row, key, load(row.audio, RATE, start=row.start, end=row.end).samples
        except (Unusable, *CANNOT_READ) as error:
            storage.check(error)
            return row, (), None

    def _transcribe(self, clips: dict[_Key, Samples]) -> None:
        """Transcribe clips and log what was heard."""
        if not clips:
            return
        loaded = self._recogniser
        for code in dict.fromkeys(key[3] for key in clips if key[3] not in self._refused):
            some = [key for key in clips if key[3] == code]
            pieces = [_pieces(clips[key]) for key in some]
            try:
                told = iter(loaded.transcribe([piece for one in pieces for piece in one], code))
            except BadInput as error:  # one for English only
                self._refused.add(code)
                console.warn(STAGE, f"{error}; their texts are not compared with what is said")
                continue
            lines = [_line(key, [next(told) for _ in one]) for key, one in zip(some, pieces, strict=True)]
            append_log.append(self._path, lines)
            for line in lines:
                self._kept[_key_of(line)] = Heard(line["text"], line["language"], line["judged"])


def _pieces(samples: Samples) -> list[Samples]:
    """Cut a clip into equal pieces of at most `LONGEST` seconds."""
    return np.array_split(samples, max(1, -(-len(samples) // int(LONGEST * RATE))))


def _key_of(line: dict[str, Any]) -> _Key:
    return tuple(line.get(name) for name in ("of", "from", "to", "as", "by"))


def _line(key: _Key, told: list[Transcript]) -> dict[str, Any]:
    """Return the line of the log. A transcript that repeats itself or has no end says nothing about the row."""
    judged = not any((one.doubt() or ("",))[0] in (REPEATS, NO_END) for one in told)
    names = dict(zip(("of", "from", "to", "as", "by"), key, strict=True))
    return {**names, "text": " ".join(one.text for one in told), "language": told[0].language, "judged": judged}
