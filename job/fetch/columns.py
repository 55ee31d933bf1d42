"""Which column is which: the names people give them, and the variables that override."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from job.errors import BadInput
from job.fetch import segments
from job.fetch.table import Table
from job.settings import Settings

#: Field -> the names it goes by, the first that a row has winning. `speaker_id` and the like are left out on purpose:
#: a corpus of a hundred readers becomes a hundred voices only when SPEAKER_COLUMN asks for it.
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

#: Columns that probably hold speakers; only good for a hint.
LIKELY_SPEAKERS = ("speaker_id", "speaker_name", "spk", "spk_id", "reader", "client_id")


@dataclass(frozen=True)
class Columns:
    """Field -> the columns to try, in order. A field without any is an empty tuple."""

    by_field: dict[str, tuple[str, ...]]

    def value(self, field: str, row: Mapping[str, Any]) -> Any:
        """The first value a row has for `field`, else None."""
        return next((row[c] for c in self.by_field[field] if row.get(c) is not None), None)

    @property
    def used(self) -> list[str]:
        """All columns that any field needs."""
        return list(dict.fromkeys(column for columns in self.by_field.values() for column in columns))


def choose(table: Table, settings: Settings) -> Columns:
    """Match a table's columns to the fields.

    Raises:
        BadInput: a variable names a column that is not there, or nothing looks like the text or the audio.
    """
    listed = shown(table.columns)
    by_lower: dict[str, list[str]] = {}
    for column in table.columns:
        by_lower.setdefault(column.lower(), []).append(column)
    found: dict[str, tuple[str, ...]] = {}
    for field, names in NAMES.items():
        override = getattr(settings, OVERRIDES[field]) if field in OVERRIDES else None
        if override is not None:
            if override not in table.columns:
                raise BadInput(
                    f"{OVERRIDES[field].upper()}={override}: no row of {table.where} has that column; it has {listed}"
                )
            found[field] = (override,)
            continue
        names = tuple(dict.fromkeys((*table.preferred.get(field, ()), *names)))
        found[field] = tuple(column for name in names for column in by_lower.get(name, ()))
    if not found["audio"]:
        found["audio"] = tuple(table.audio_types)
    _require(found, table, listed)
    return Columns(found)


def hint_about_speakers(table: Table, columns: Columns) -> str | None:
    """A line for the user when a column looks like speakers and is not used as such."""
    if columns.by_field["speaker"]:
        return None
    likely = next((c for c in table.columns if c.lower() in LIKELY_SPEAKERS), None)
    if likely is None:
        return None
    return f"all rows of {table.name} are taken as one speaker; SPEAKER_COLUMN={likely} would make each its own voice"


def shown(columns: list[str]) -> str:
    """Columns for a message: the first dozen."""
    if not columns:
        return "no columns"
    return ", ".join(columns[:12]) + (f" and {len(columns) - 12} more" if len(columns) > 12 else "")


def _require(found: dict[str, tuple[str, ...]], table: Table, listed: str) -> None:
    if not found["text"]:
        raise BadInput(f"{table.where}: no column looks like the text among {listed}; name it with TEXT_COLUMN")
    if not found["audio"] and not found["audio_codes"]:
        raise BadInput(f"{table.where}: no column looks like the audio among {listed}; name it with AUDIO_COLUMN")
