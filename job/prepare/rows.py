"""Rows of the raw manifest, with speaker and language in the form that the model looks them up by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job import files, names
from job.settings import Settings

#: ISO 639 codes of the languages that the released base models know.
ISO_CODES: Mapping[str, str] = {
    "zh": "chinese",
    "en": "english",
    "de": "german",
    "it": "italian",
    "pt": "portuguese",
    "es": "spanish",
    "ja": "japanese",
    "ko": "korean",
    "fr": "french",
    "ru": "russian",
}

#: Language of rows that name none: the model finds out by itself.
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the raw manifest.

    `number` is its row in the source, `position` its line in the manifest (from 0). `codes` is set for rows that arrive
    encoded: [[one int a codebook] a frame]. `start` and `end` are seconds into the recording, for rows that are a part.
    """

    id: str
    split: str
    number: int
    source: str
    text: str
    audio: Path | None
    ref_audio: Path | None
    speaker: str
    language: str
    instruct: str | None
    codes: Any = None
    position: int = 0
    start: float | None = None
    end: float | None = None


def read_rows(path: Path, split: str, settings: Settings, known: Mapping[str, int]) -> Iterator[Row]:
    """Stream a manifest that fetch wrote; nothing when it does not exist.

    `known` are the base model's languages.
    """
    if not path.is_file():
        return
    for line, raw in enumerate(files.read_jsonl(path), start=1):
        yield Row(
            id=str(raw["id"]),
            split=split,
            number=int(raw.get("row") or line),
            source=str(raw.get("source") or path.name),
            text=str(raw.get("text") or "").strip(),
            audio=_path(raw.get("audio")),
            ref_audio=_path(raw.get("ref_audio")),
            speaker=speaker_key(raw.get("speaker") or "") or speaker_key(settings.speaker_name),
            language=language_key(raw.get("language") or settings.language, known),
            instruct=str(raw["instruct"]).strip() or None if raw.get("instruct") else None,
            codes=raw.get("audio_codes"),
            position=line - 1,
            start=raw.get("start"),
            end=raw.get("end"),
        )


def speaker_key(name: str) -> str:
    """The name that `generate_custom_voice` looks a speaker up by: lower case, composed."""
    return names.lookup_key(str(name))


def language_key(name: str, known: Mapping[str, int]) -> str:
    """A language's name in lower case; an ISO code (`en`, `pt-BR`) of a language that the base knows becomes its name.

    Languages that the base does not know are kept as they are given.
    """
    key = names.lookup_key(str(name))
    if key in known:
        return key
    if key in names.NO_LANGUAGE:
        return AUTO
    named = ISO_CODES.get(key.replace("_", "-").split("-")[0], "")
    return named if named in known else key


def _path(value: Any) -> Path | None:
    return Path(str(value)) if value else None
