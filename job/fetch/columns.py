"""Match columns to fields: by the variables that override, by common names, and by their contents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from job.config.settings import Settings
from job.core.errors import BadInput
from job.fetch import doubts, guess, segments
from job.fetch.guess import Profile
from job.fetch.sounds_spelled import PHONEMES
from job.fetch.table import RowError, Table

#: How to have recordings transcribed all the same, at the end of a message.
OR_TRANSCRIBE = "; TRANSCRIBE=always transcribes the recordings instead"
#: Field -> the column names it is known by; the first one that a row has wins. `speaker_id` and the like are omitted on
#: purpose: a corpus of a hundred readers becomes a hundred voices only if SPEAKER_COLUMN asks for it.
NAMES: dict[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text", "raw_text", "txt"),
    "audio": ("audio", "audio_filepath", "audio_path", "audio_file", "file_name", "filename", "path", "file", "wav"),
    "ref_audio": ("ref_audio", "ref_audio_path", "reference_audio"),
    "ref_text": ("ref_text", "reference_text"),
    "speaker": ("speaker",),
    "language": ("language", "lang"),
    "instruct": ("instruct", "instruction"),
    "id": ("id", "utt_id", "utterance_id", "__key__"),
    "audio_codes": ("audio_codes",),
    "sampling_rate": ("sampling_rate", "sample_rate"),
    **segments.NAMES,
}

#: Field -> the setting that names its column.
OVERRIDES = {
    "text": "text_column",
    "audio": "audio_column",
    "speaker": "speaker_column",
    "language": "language_column",
    "instruct": "instruct_column",
}

#: Columns that probably contain speakers; used only for a hint.
LIKELY_SPEAKERS = (
    *("speaker_id", "speaker_name", "speaker_label", "speakers", "spk", "spk_id", "spk_name", "spkr", "reader"),
    *("reader_id", "client_id", "narrator", "voice", "voice_name", "voice_id", "character", "person"),
)

#: All names by which a first row is recognized as a header.
KNOWN = frozenset({*(name for names in NAMES.values() for name in names), *LIKELY_SPEAKERS})


@dataclass(frozen=True)
class Columns:
    """The columns to try for each field, in order; an empty tuple for a field that has none.

    `pair` are two text columns with the same sentences, numbers written out in the first. `why` says how the text and
    audio columns were chosen. `has_ends` is False if sentences start within recordings and no column gives their end.
    """

    by_field: dict[str, tuple[str, ...]]
    pair: tuple[str, str] | None = None
    why: str = ""
    likely_speakers: str | None = None
    has_ends: bool = True

    def value(self, field: str, row: Mapping[str, Any]) -> Any:
        """Return the first value that a row has for `field`, else None.

        Raises:
            RowError: the row's raw and written-out texts are different sentences.
        """
        found = next((row[c] for c in self.by_field[field] if row.get(c) is not None), None)
        if field == "text" and self.pair is not None:
            self._compare(row, *self.pair)
        return found

    def _compare(self, row: Mapping[str, Any], written: str, raw: str) -> None:
        texts = [value for column in (raw, written) if isinstance(value := row.get(column), str)]
        if len(texts) == 2 and not guess.may_be_same(*texts):
            detail = f"{raw} {texts[0][:40]!r} and {written} {texts[1][:40]!r}; is there a separator inside a sentence?"
            raise RowError("the two texts of the row differ", detail)

    @cached_property
    def has_times(self) -> bool:
        """Whether any column gives a position in a recording, or its length."""
        return any(self.by_field[field] for field in segments.NAMES)

    @property
    def used(self) -> list[str]:
        """All columns that are used by any field."""
        return list(dict.fromkeys(column for columns in self.by_field.values() for column in columns))


def choose(table: Table, settings: Settings, needs_text: bool = True) -> Columns:
    """Match a table's columns to the fields: by the variables, by their names, and by the values in a sample of rows.

    Without `needs_text` there may be no column for the text.

    Raises:
        BadInput: a variable names a column that does not exist, no column looks like the text or the audio, or the
            columns' contents contradict their names, or fit two of them equally well.
    """
    rows = table.sample()
    held = guess.profiles(rows, table.columns, table.folders)
    found = {name: _by_name(table, name) for name in NAMES}
    segments.settle_offset(found, plain_name)
    given = {name: c for name in OVERRIDES if (c := _override(table, settings, name, rows, held)) is not None}
    for name in NAMES:  # a column called `speaker` that TEXT_COLUMN names is not the speaker
        found[name] = tuple(c for c in found[name] if c not in given.values())
    found.update({name: (column,) for name, column in given.items()})
    why = {name: OVERRIDES[name].upper() for name in given if name in ("text", "audio")}
    if "audio" not in given:
        found["audio"], why["audio"] = _audio(table, found, held)
    others = [p for c, p in held.items() if c not in {x for name, cs in found.items() if name != "text" for x in cs}]
    if not table.header and not found["language"]:
        languages = tuple(p.column for p in others if p.language)
        found["language"] = languages if len(languages) == 1 else ()
    pair = None
    if "text" not in given:
        if found["text"]:
            labels = [held[c] for name in ("speaker", "language", "id") for c in found[name] if c in held]
            found["text"] = doubts.named_text(table.where, found["text"], held, others, labels, rows)
            why["text"] = "by its name"
        else:
            chosen = doubts.text_by_values(table, rows, others)
            found["text"], pair, why["text"] = chosen.columns, chosen.pair, chosen.why
    _require(found, table)
    if not found["text"] and (needs_text or _may_be_text(table, others, settings)):
        hint = "" if settings.transcribe == "always" else OR_TRANSCRIBE
        listed = shown(table.columns)
        spelled = next(
            (f" ({p.column} holds {PHONEMES}: {p.examples})" for p in others if p.says_nothing == PHONEMES), ""
        )
        missing = f"no column looks like the text among {listed}{spelled}"
        raise BadInput(f"{table.where}: {missing}; name it with TEXT_COLUMN{hint}")
    bare = _is_bare(found["audio"], held, table)
    if not table.header and bare and not found["id"]:
        found["id"] = found["audio"][:1]
    return Columns(
        found,
        pair,
        "; ".join(f"{name} is {found[name][0]} ({why[name]})" for name in ("text", "audio") if found[name]),
        _likely_speakers(table, found, others),
        any(found[name] for name in segments.ENDS) or not _begins(rows, found["start"] + found["start_ms"]),
    )


def notes(table: Table, columns: Columns) -> list[str]:
    """Return log lines about a table: which columns are used and why, and an unused one that looks like speakers."""
    header = "" if table.header else ", which has no header"
    hint = hint_about_speakers(table, columns)
    return [f"{table.name}{header}: {columns.why}", *([hint] if hint else [])]


def hint_about_speakers(table: Table, columns: Columns) -> str | None:
    """Return a hint for the user if a column looks like speakers but is not used as such."""
    likely = columns.likely_speakers
    if likely is None:
        return None
    return f"all rows of {table.name} are taken as one speaker; SPEAKER_COLUMN={likely} would make each its own voice"


def shown(columns: list[str]) -> str:
    """Format columns for a message: the first twelve."""
    if not columns:
        return "no columns"
    return ", ".join(columns[:12]) + (f" and {len(columns) - 12} more" if len(columns) > 12 else "")


def plain_name(column: str) -> str:
    """Normalize a column's name for the lookup: `Start Time (s)` and `startTime[s]` become `start_time_s`."""
    return guess.plain_name(column)


def _by_name(table: Table, field: str) -> tuple[str, ...]:
    if not table.header:
        return tuple(c for c in table.columns if c in NAMES[field])  # the folder's reference, added to the columns
    by_name: dict[str, list[str]] = {}
    for column in table.columns:
        by_name.setdefault(plain_name(column), []).append(column)
    return tuple(column for name in NAMES[field] for column in by_name.get(name, ()))


def _override(
    table: Table, settings: Settings, field: str, rows: list[Mapping[str, Any]], held: dict[str, Profile]
) -> str | None:
    """Return the column that a variable selects: by its name, or by its position in a table without a header."""
    named: str | None = getattr(settings, OVERRIDES[field])
    if named is None or named in table.columns:
        return named
    variable = OVERRIDES[field].upper()
    if not table.header:
        position = re.fullmatch(r"(?:column[ _-]?)?(\d{1,4})", named.strip().lower())
        if position and f"column_{int(position[1])}" in table.columns:
            return f"column_{int(position[1])}"
        if field == "text" and named in ("text", "raw_text", "normalized_text"):  # as LJSpeech calls its columns
            candidates = [p for p in held.values() if p.says_nothing is None]
            chosen = doubts.text_by_values(table, rows, candidates)
            return (chosen.pair or chosen.columns)[-1 if named != "normalized_text" else 0]
    listed = shown(table.columns)
    hint = "" if table.header else "; it has no header, so columns are named by position, from 1"
    raise BadInput(f"{variable}={named}: no row of {table.where} has that column; it has {listed}{hint}")


def _audio(table: Table, found: dict[str, tuple[str, ...]], held: dict[str, Profile]) -> tuple[tuple[str, ...], str]:
    named = found["audio"] or tuple(table.audio_types)
    if named:
        sound = [c for c in named if c not in held or held[c].is_sound or held[c].names >= guess.MOSTLY]
        ordered = tuple(dict.fromkeys((*sound, *named)))
        return ordered, "by its name" if ordered == named else "by its name, and it has the recordings"
    if found["audio_codes"]:
        return (), ""
    taken = {column for columns in found.values() for column in columns} - set(found["id"])
    return doubts.audio_by_values(table, [p for c, p in held.items() if c not in taken])


def _is_bare(audio: tuple[str, ...], held: dict[str, Profile], table: Table) -> bool:
    """Whether recordings are named without extension: adding one finds files, or the table has no header."""
    profile = held.get(audio[0]) if audio else None
    if profile is None or profile.is_sound:
        return False
    return profile.names > 0 or not table.header


def _begins(rows: list[Mapping[str, Any]], columns: tuple[str, ...]) -> bool:
    """Whether any sentence starts elsewhere than at 0; also True if no values could be sampled."""
    values = [str(value).strip() for row in rows for c in columns if (value := row.get(c)) not in (None, "")]
    return bool(columns) and (not values or any(not re.fullmatch(r"[0:.,]+s?|nan", value) for value in values))


def _likely_speakers(table: Table, found: dict[str, tuple[str, ...]], others: list[Profile]) -> str | None:
    if found["speaker"]:
        return None
    if table.header:
        return next((c for c in table.columns if plain_name(c) in LIKELY_SPEAKERS), None)
    used = {column for columns in found.values() for column in columns}
    labels = (p for p in others if p.column not in used and p.is_label and len(p.labels) > 1 and not p.language)
    return next((p.column for p in labels), None)


def _may_be_text(table: Table, others: list[Profile], settings: Settings) -> bool:
    """Whether a table without an obvious text may have one, so that its recordings are not transcribed unasked."""
    if settings.transcribe == "always":
        return False
    named = [p for p in others if not table.header or plain_name(p.column) not in LIKELY_SPEAKERS]
    return any(p.says_nothing in (None, PHONEMES) and p.letters > 0 for p in named)


def _require(found: dict[str, tuple[str, ...]], table: Table) -> None:
    listed = shown(table.columns)
    if not found["audio"] and not found["audio_codes"]:
        raise BadInput(f"{table.where}: no column looks like the audio among {listed}; name it with AUDIO_COLUMN")
