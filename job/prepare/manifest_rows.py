"""Read the rows of a raw manifest, with speaker and language as the keys that the model uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.config import names
from job.config.names import AUTO as AUTO
from job.config.settings import Settings
from job.core import files


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the raw manifest.

    `number` is its row in the source, `position` its line in the manifest (from 0). `codes` is set for rows that arrive
    encoded: a list of frames, each with one int per codebook. `start` and `end` are seconds into the recording, for
    rows that are a segment of it. `transcribed_by` names the recogniser that `text` is from.
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
    transcribed_by: str | None = None


def read_rows(path: Path, split: str, settings: Settings, language: Callable[[str], str]) -> Iterator[Row]:
    """Stream the rows of a manifest written by fetch; yields nothing if it does not exist.

    `language` maps the language name in a row to the model's name.
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
            language=language(str(raw.get("language") or settings.language)),
            instruct=str(raw["instruct"]).strip() or None if raw.get("instruct") else None,
            codes=raw.get("audio_codes"),
            position=line - 1,
            start=raw.get("start"),
            end=raw.get("end"),
            transcribed_by=raw.get("transcribed_by"),
        )


def speaker_key(name: str) -> str:
    """Normalize a speaker name to the key that `generate_custom_voice` looks up: lower case, composed Unicode."""
    return names.lookup_key(str(name))


def _path(value: Any) -> Path | None:
    return Path(str(value)) if value else None
