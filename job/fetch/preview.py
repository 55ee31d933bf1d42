"""Log a few manifest rows, so that the user can check how the data was understood."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from job.config.settings import Settings
from job.core import console, files
from job.fetch import audio_store
from job.fetch.table import RowError

#: Number of rows shown: the first, the middle and the last.
ROWS = 3
#: Maximum number of characters of a text that are shown.
TEXT = 120
#: Number of parent folders of a path that are shown.
FOLDERS = 2


def show(path: Path, rows: int, settings: Settings) -> None:
    """Print the first, the middle and the last of a manifest's `rows` rows: file, seconds, speaker, language, text."""
    wanted = sorted({0, rows // 2, rows - 1})[:ROWS]
    console.say("fetch", f"{len(wanted)} of {rows} rows as understood (file, seconds, speaker, language, text):")
    lines = files.read_jsonl(path)
    at = 0
    for number in wanted:
        row = next(islice(lines, number - at, None))
        at = number + 1
        console.say("fetch", line(row, settings))


def line(row: dict[str, Any], settings: Settings) -> str:
    """Format one row of a manifest as one line."""
    speaker = row["speaker"] or f"{settings.speaker_name} (SPEAKER_NAME)"
    language = row["language"] or f"{settings.language} (LANGUAGE)"
    text = " ".join(row["text"].split())
    text = text if len(text) <= TEXT else f"{text[:TEXT]}…"
    return f"row {row['row']}: {_file(row)}, {_seconds(row)}, speaker {speaker}, language {language}, text: {text}"


def _file(row: dict[str, Any]) -> str:
    if row["audio"] is None:
        return "audio_codes"
    return "/".join(Path(row["audio"]).parts[-1 - FOLDERS :]).lstrip("/")


def _seconds(row: dict[str, Any]) -> str:
    if "audio_codes" in row:
        return f"{len(row['audio_codes'])} frames"
    try:
        there = audio_store.seconds(Path(row["audio"]))
    except RowError as error:  # prepare reports it for every row
        return error.kind
    if "start" not in row:
        return f"{there:.2f} s"
    end = there if row["end"] is None else row["end"]
    return f"{end - row['start']:.2f} s ({row['start']:g} to {end:g} of {there:.2f} s)"
