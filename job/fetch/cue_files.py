"""Parse timed transcripts of a long recording: SRT and VTT subtitles, Praat TextGrids, Audacity labels, Whisper JSON.

Each is read into cues: start, end, text, and the speaker if the file names one. Cues are not validated here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.core import storage
from job.fetch import lines, subtitles
from job.fetch.table import RowError

#: Extensions of files that always contain times, in order of preference.
ENDINGS = (".srt", ".vtt", ".textgrid")
#: Names of the TextGrid tier that contains the transcript; the first one that exists is used.
TIERS = (
    *("utterance", "utterances", "sentence", "sentences", "text", "transcript", "transcription", "orthography", "ort"),
    *("ortho", "ort-mau", "phrase", "phrases", "ipu", "ipus", "segment", "segments", "words", "word"),
)

#: Separator between the names of several speakers in one cue.
SEVERAL = " / "
_VOICE = re.compile(r"<v(?:\.[\w.-]+)?\s+([^<>]+)>", re.IGNORECASE)
_LABEL = re.compile(r"(-?\d+(?:[.,]\d+)?)\t(-?\d+(?:[.,]\d+)?)(?:\t(.*))?$")
#: A TextGrid string (a quotation mark inside is doubled), or a standalone number.
_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<![\w\[.])(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w\].])')


@dataclass(frozen=True)
class Cue:
    """One timed piece of text, from `start` to `end` in seconds. `number` is its position in its file, from 1."""

    number: int
    start: float
    end: float
    text: str
    speaker: str | None = None


def read(path: Path) -> list[Cue]:
    """Read the cues of a file, in file order; times in JSON that are not numbers become NaN.

    Raises:
        RowError: it cannot be read, or contains no cues.
    """
    try:
        text = "\n".join(line for _, line in lines.read(path))
    except OSError as error:
        storage.check(error, path)
        raise RowError("text cannot be read", f"{path.name}: {error.strerror}") from None
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RowError("text is not UTF-8", f"{path.name}; save it as UTF-8")
    ending = path.suffix.lower()
    readers: dict[str, Callable[[str, str], Iterable[Cue]]] = {
        ".srt": _subtitles,
        ".vtt": _subtitles,
        ".textgrid": _textgrid,
        ".json": _json,
    }
    cues = list(readers.get(ending, _labels)(text, path.name))
    if not cues:
        raise RowError("no text with times", f"{path.name} holds no {'intervals' if ending == '.textgrid' else 'cues'}")
    return cues


def holds_times(path: Path) -> bool:
    """Whether a file contains a transcript with times. Only the beginning of a text file is read."""
    ending = path.suffix.lower()
    looks = {".json": holds_segments, ".txt": holds_labels}
    return ending in ENDINGS or (ending in looks and looks[ending](path))


def holds_labels(path: Path) -> bool:
    """Whether a text file is an Audacity label track: each line begins with tab-separated times."""
    try:
        with open(path, "rb") as handle:
            head = handle.read(lines.HEAD_BYTES)
    except OSError as error:
        storage.check(error, path)
        return False
    found = head.decode(lines.encoding_of(head), "ignore").removeprefix("\ufeff").splitlines()
    found = [line for line in (found[:-1] if len(head) == lines.HEAD_BYTES else found) if line.strip()]
    return bool(found) and all(_LABEL.match(line) or line.startswith("\\\t") for line in found)


def holds_segments(path: Path) -> bool:
    """Whether a JSON file is Whisper-like output: `segments` with `start` and `end`, or a list of such segments."""
    try:
        return any("start" in one and "end" in one for one in _segments(json.loads(path.read_bytes())))
    except (OSError, ValueError, RecursionError) as error:
        storage.check(error, path)
        return False


def _subtitles(text: str, name: str) -> Iterator[Cue]:
    """Parse SRT and WebVTT."""
    for number, (start, end, shown) in subtitles.parse(text):
        joined = "\n".join(shown)
        voices = dict.fromkeys(voice.strip() for voice in _VOICE.findall(joined))
        yield Cue(number, start, end, joined, SEVERAL.join(voices) or None)


def _labels(text: str, name: str) -> Iterator[Cue]:
    rows = (line for line in text.split("\n") if line.strip() and not line.startswith("\\"))
    for number, line in enumerate(rows, start=1):
        if found := _LABEL.match(line.rstrip()):
            start, end = (float(found[i].replace(",", ".")) for i in (1, 2))
            yield Cue(number, start, end, found[3] or "")


def _segments(value: Any) -> list[dict[str, Any]]:
    found = (
        value.get("segments") or value.get("chunks") or value.get("transcription") if isinstance(value, dict) else value
    )
    return [_with_times(one) for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _with_times(segment: dict[str, Any]) -> dict[str, Any]:
    """Return a segment with `start` and `end` in seconds, where other programs than Whisper keep them otherwise."""
    pair, offsets = segment.get("timestamp"), segment.get("offsets")
    if isinstance(pair, list) and len(pair) == 2:  # transformers
        return {"start": pair[0], "end": pair[1], **segment}
    if isinstance(offsets, dict) and all(isinstance(offsets.get(key), int) for key in ("from", "to")):  # whisper.cpp
        return {"start": offsets["from"] / 1000, "end": offsets["to"] / 1000, **segment}
    return segment


def _json(text: str, name: str) -> Iterator[Cue]:
    try:
        found = _segments(json.loads(text))
    except (ValueError, RecursionError):
        raise RowError("text is something else", f"{name} is not JSON") from None
    for number, one in enumerate(found, start=1):
        said, speaker = one.get("text"), one.get("speaker")
        start, end = (_number(one.get(key)) for key in ("start", "end"))
        yield Cue(number, start, end, str(said or "").strip(), str(speaker) if speaker else None)


def _number(value: Any) -> float:
    """Return seconds that are given as a number or as its digits; NaN for anything else."""
    try:
        return float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _textgrid(text: str, name: str) -> Iterator[Cue]:
    """Yield the intervals of the transcript tier. The long text format adds only keywords to the short: both parse."""
    tiers = _tiers(re.sub(r"^\s*!.*$", "", text, flags=re.MULTILINE), name)
    if not tiers:
        raise RowError("no text with times", f"{name} holds no interval tier")
    chosen = next((tier for wanted in TIERS for tier in tiers if tier[0].strip().lower() == wanted), None)
    if len(tiers) > 1 and chosen is None:
        names = ", ".join(tier[0] or "(no name)" for tier in tiers)
        raise RowError(
            "several tiers",
            f"{name} has the interval tiers {names}; call the one with what is said {TIERS[0]}, or keep it alone",
        )
    for number, (start, end, said) in enumerate((chosen or tiers[0])[1], start=1):
        if said.strip():
            yield Cue(number, start, end, said)


def _tiers(text: str, name: str) -> list[tuple[str, list[tuple[float, float, str]]]]:
    tokens = [found[1].replace('""', '"') if found[2] is None else float(found[2]) for found in _TOKEN.finditer(text)]
    tiers = []
    try:
        at = next(i for i, token in enumerate(tokens) if token in ("IntervalTier", "TextTier"))
        while at < len(tokens):
            kind, title, count = tokens[at], str(tokens[at + 1]), int(tokens[at + 4])  # +2, +3: start and end
            width = 3 if kind == "IntervalTier" else 2
            if kind not in ("IntervalTier", "TextTier") or at + 5 + width * count > len(tokens):
                raise ValueError
            rows = [tokens[at + 5 + width * i : at + 5 + width * (i + 1)] for i in range(count)]
            if kind == "IntervalTier":
                tiers.append((title, [(float(start), float(end), str(said)) for start, end, said in rows]))
            at += 5 + width * count
    except (StopIteration, ValueError, IndexError):
        raise RowError("text is something else", f"{name} is not a whole TextGrid; save it as text in Praat") from None
    return tiers
