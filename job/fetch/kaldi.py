"""Read Kaldi and ESPnet data directories: `wav.scp` lists the recordings, `text` the transcript of each utterance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from job.config.settings import Settings
from job.core import console, storage
from job.core.errors import BadInput
from job.fetch.table import Row, RowError, Table, Unreadable

#: Files of every Kaldi data directory.
FILES = {"wav.scp", "text"}


def is_data_directory(folder: Path) -> bool:
    """Whether a folder is a Kaldi data directory."""
    return all((folder / name).is_file() for name in FILES)


def open_table(folder: Path, where: str, settings: Settings) -> Table:
    """Open a data directory as a table with one row per utterance in `text`.

    With a file `segments`, rows have `start` and `end` in seconds within their recording. Speakers come from `utt2spk`
    if there are several and SPEAKER_NAME is not set; they are ignored if each utterance has a different speaker, which
    is what scripts write if speakers are unknown.

    Raises:
        BadInput: one of the files cannot be read as UTF-8 text.
    """
    recordings = _pairs(folder / "wav.scp", where)
    segments = _pairs(folder / "segments", where) if (folder / "segments").is_file() else None
    languages = _pairs(folder / "utt2lang", where) if (folder / "utt2lang").is_file() else {}
    speakers = _pairs(folder / "utt2spk", where) if (folder / "utt2spk").is_file() else {}
    different = set(speakers.values())
    if len(speakers) > 1 and len(different) == len(speakers):
        console.say("fetch", f"{folder.name}/utt2spk has a speaker for each utterance: it is not used")
        speakers = {}
    if len(different) < 2 or "speaker_name" in settings.model_fields_set:
        speakers = {}

    def values(utterance: str, text: str) -> dict[str, Any]:
        row: dict[str, Any] = {"id": utterance, "text": text or None}
        recording = utterance
        if segments is not None:
            recording, row["start"], row["end"] = _segment(utterance, segments)
        row["audio"] = _audio(recording, recordings)
        row["speaker"] = speakers.get(utterance)
        row["language"] = languages.get(utterance)
        return row

    def read() -> Iterator[Row | Unreadable]:
        with open(folder / "text", "rb") as handle:
            for number, line in enumerate(handle, start=1):
                if not line.strip():
                    continue
                try:
                    utterance, _, text = _decoded(line).partition(" ")
                    yield Row(number, values(utterance, text.strip()))
                except RowError as error:
                    yield Unreadable(number, error)

    columns = ["id", "audio", "text", *(["start", "end"] if segments is not None else [])]
    columns += [name for name, found in (("speaker", speakers), ("language", languages)) if found]
    folders = [folder, *list(folder.parents)[:3], Path.cwd()]  # paths are relative to the recipe's working directory
    return Table(folder.name, f"{where} ({folder.name}/text)", columns, read, folders=folders)


def _decoded(line: bytes) -> str:
    """Decode a line, with a single space after its first cell.

    Raises:
        RowError: it is not UTF-8.
    """
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise RowError("not UTF-8", "save the file as UTF-8") from None
    name, _, rest = text.replace("\t", " ", 1).partition(" ")
    return f"{name} {rest.strip()}"


def _pairs(path: Path, where: str) -> dict[str, str | None]:
    """Map the first cell of each line to the rest of the line; None if two lines with the same first cell differ."""
    found: dict[str, str | None] = {}
    try:
        with open(path, "rb") as handle:
            for line in handle:
                if line.strip():
                    name, _, rest = _decoded(line).partition(" ")
                    found[name] = rest if found.get(name, rest) == rest else None
    except PermissionError:
        raise
    except (OSError, RowError) as error:
        storage.check(error, path)
        raise BadInput(f"{where}: {path.name} cannot be read as UTF-8 text ({error})") from None
    return found


def _audio(recording: str, recordings: dict[str, str | None]) -> str:
    if recording not in recordings:
        raise RowError("audio is missing", f"wav.scp has no {recording}")
    value = recordings[recording]
    if value is None:
        raise RowError("audio is ambiguous", f"wav.scp has two different lines for {recording}; keep one")
    if value.endswith("|") or value.startswith("|"):
        detail = f"wav.scp makes {recording} by {value[:60]!r}; run it into a file and name that"
        raise RowError("audio is a command", detail)
    name, _, offset = value.rpartition(":")
    if name.endswith(".ark") and offset.isdigit():
        detail = f"{value[-60:]!r} of {recording}; write WAV or FLAC files: wav-copy scp:wav.scp ..."
        raise RowError("audio is in a Kaldi archive", detail)
    return value


def _segment(utterance: str, segments: dict[str, str | None]) -> tuple[str, float, float | None]:
    """Return an utterance's recording, start and end (seconds; None means the end of the recording)."""
    if utterance not in segments:
        raise RowError("no segment", f"segments has no {utterance}")
    cells = (segments[utterance] or "").split()
    try:
        recording, start, end = cells[0], float(cells[1]), float(cells[2])
    except (IndexError, ValueError):
        raise RowError("not a segment", f"{utterance} needs one line: recording, start and end in seconds") from None
    if end == -1:
        return recording, start, None
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
        raise RowError("not a segment", f"{utterance}: from {start:g} s to {end:g} s")
    return recording, start, end
