"""Read one transcript: a text file, a `.lab` file with plain text, a JSON object, or a line of a LibriSpeech table.

The voice learns to say what is in such a file, so a git-LFS pointer, a text with times or a list of phonemes is
rejected, and the error says which of these it is.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from job.audio import audio_files
from job.core import storage
from job.fetch import cue_files, lines
from job.fetch.columns import NAMES
from job.fetch.table import RowError

#: Extensions of files that may hold what is said, with times or markup, and are not read.
NOT_READ = (
    *(
        ".lrc",
        ".ass",
        ".ssa",
        ".sbv",
        ".eaf",
        ".ctm",
        ".stm",
        ".rttm",
        ".cha",
        ".trs",
        ".ttml",
        ".dfxp",
        ".itt",
        ".otr",
    ),
    *(".srv1", ".srv2", ".srv3", ".json3", ".smi", ".sami", ".stl", ".scc", ".sub", ".xml", ".tsv"),
    *(".docx", ".doc", ".odt", ".rtf", ".pages", ".md", ".html", ".htm"),
)
ENDINGS = (".txt", ".lab", ".json", *cue_files.ENDINGS, *NOT_READ)

#: Tolerance between a recording's length and the `duration` in its JSON: as a share, and in seconds.
_LENGTH_SHARE, _LENGTH_SECONDS = 0.1, 0.5

_TIME = r"\d+(?:[.,]\d+)?"
#: `0 2500000 sil` (HTK), `0.5 1.25 hello` (Audacity), `2500000 121 sil` (festival).
_TIMED_LINE = re.compile(rf"{_TIME}\s+-?{_TIME}(?:\s+\S|\s*$)")
_SUBTITLE = re.compile(r"\d+:\d\d[:.,]\d\d.*-->|^WEBVTT|^\[\d+:\d\d[.:]\d\d", re.MULTILINE)
#: `0:12 hello`, `[00:01:02]`, alone or before words: transcripts with the time of each line or paragraph.
_CLOCK_LINE = re.compile(r"[\[(]?\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,3})?[\])]?(?:\s|$)")
_FULL_CONTEXT = re.compile(r"\S*\^\S*-\S*\+\S*=")
_SILENCES = {"sil", "pau", "sp", "spn", "#", "h#", "<sil>", "<p:>"}
_POINTERS = ("version https://git-lfs.", "version https://hawser.", "/annex/objects/", "-----BEGIN PGP ", "Salted__")


def read(path: Path, audio: Path) -> dict[str, Any]:
    """Read the `text` from a recording's transcript file; from a JSON object also `speaker` and `language`.

    Raises:
        RowError: it is not UTF-8, contains something other than text, or gives a different length for the recording.
    """
    try:
        content = path.read_bytes()
        encoding = lines.encoding_of(content)
        text = content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError:
        raise RowError("text is not UTF-8", f"{path.name}; save it as UTF-8") from None
    except OSError as error:
        storage.check(error, path)
        raise RowError("text cannot be read", f"{path.name}: {error.strerror}") from None
    if path.suffix.lower() == ".json":
        return _of_json(text, path, audio)
    check(text, path.name)
    _check_name(text, path.name, audio)
    return {"text": text}


def _check_name(text: str, name: str, audio: Path) -> None:
    """Reject a text that begins with the name of its recording, as a line of a table does: it would be read out.

    Raises:
        RowError: it does.
    """
    stem = audio_files.stem(audio.name)
    is_id = any(map(str.isdigit, stem)) and any(map(str.isalpha, stem))
    ends = r"\s*[|\t]" if not is_id else r"\s*[|\t:;]"
    if re.match(rf"\s*(?:{re.escape(audio.name)}|{re.escape(stem)}){ends}", text, re.IGNORECASE):
        detail = f"{name}: {text.strip()[:40]!r} begins with the recording's name; give what is said alone"
        raise RowError("text has the name of its recording", detail)


def check(text: str, name: str) -> None:
    """Reject a file that is not a plain transcript.

    Raises:
        RowError: it is a git-LFS pointer or a web page, has times, or has phonemes instead of words.
    """
    beginning = text.lstrip()[:1024]
    if beginning.startswith(_POINTERS) or audio_files.is_page(beginning) or re.match(r'\{\s*"', beginning):
        what = audio_files.what_it_is(beginning.encode()) or "it is no text"
        raise RowError("text is something else", f"{name}: {what.replace('the recording', 'the text')}")
    given = [line.strip() for line in text.splitlines() if line.strip()]
    if not given:
        return
    # A single sentence may begin with two numbers; all of several lines do not, nor does a line with tabs.
    label = len(given) > 1 or "\t" in given[0] or name.lower().endswith(".lab")
    timed = [line for line in given if _TIMED_LINE.match(line)]
    if label and len(timed) == len(given) and any(re.search(r"[^\W\d]", line) for line in given):
        raise RowError("text has times", f"{name} is a label file; give what is said, without times, as a .txt")
    if 1 < len(timed) < len(given) <= 2 * len(timed) and any("\t" in line for line in timed):
        other = next(line for line in given if line not in timed)
        detail = f"{name} is a label file, but for the line {other[:60]!r}; give it its times, or take it out"
        raise RowError("text has times", detail)
    clocks = sum(bool(_CLOCK_LINE.match(line)) for line in given)
    if clocks > 1 and 3 * clocks >= len(given):
        detail = f"{clocks} lines of {name} begin with a time, as {given[0][:40]!r}; give what is said, without times"
        raise RowError("text has times", detail)
    if _SUBTITLE.search(text):
        raise RowError("text has times", f"{name} is a subtitle file; give what is said, without times, as a .txt")
    tokens = {line.lower() for line in given}
    if all(_FULL_CONTEXT.search(line) for line in given) or (
        len(given) > 3 and all(" " not in line for line in given) and tokens & _SILENCES
    ):
        raise RowError("text is phonemes", f"{name} lists phonemes; give what is said, in words, as a .txt")


def _of_json(text: str, path: Path, audio: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise RowError("text is something else", f"{path.name} is not JSON; write the text as a .txt") from None
    if not isinstance(found, dict):
        raise RowError("text is something else", f"{path.name} is not one JSON object with a text in it")
    values = {
        field: next((found[name] for name in NAMES[field] if found.get(name) is not None), None)
        for field in ("text", "speaker", "language")
    }
    if values["text"] is None:
        raise RowError("no text", f"{path.name} has none of {', '.join(NAMES['text'][:4])}")
    if isinstance(values["text"], str):
        check(values["text"], path.name)
    _check_length(found.get("duration"), path, audio)
    return {field: value for field, value in values.items() if value is not None}


def _check_length(duration: Any, path: Path, audio: Path) -> None:
    """Reject a recording whose length differs from its JSON's `duration`: it is truncated, or another recording."""
    from job.fetch import audio_store

    if isinstance(duration, bool) or not isinstance(duration, int | float) or not duration > 0:
        return
    try:
        seconds = audio_store.seconds(audio)
    except RowError:
        return  # reported when it is decoded
    if abs(seconds - duration) > max(_LENGTH_SECONDS, _LENGTH_SHARE * duration):
        detail = f"{audio.name} has {seconds:.1f} s and {path.name} says {duration:.1f} s; get both again"
        raise RowError("recording and text are not of one length", detail)


def lines_by_name(path: Path) -> dict[str, str | None]:
    """Read a table with a recording's name and text per line; the text is None if two lines of a name differ.

    The name ends at the first space or tab. LibriTTS has the text twice, tab-separated, with numbers written out in
    the second, which is used.
    """
    found: dict[str, str | None] = {}
    try:
        content = [line for _, line in lines.read(path)]
    except OSError as error:
        storage.check(error, path)
        return found
    for line in content:
        name, _, rest = line.strip().partition("\t" if path.suffix.lower() == ".tsv" else " ")
        if "\t" in name:
            name, _, rest = line.strip().partition("\t")
        text = rest.strip().split("\t")[-1].strip()
        name = unicodedata.normalize("NFC", audio_files.stem(name))
        if name and text:
            found[name] = text if found.get(name, text) == text else None
    return found


def of_line(lines: dict[str, str | None], name: str, path: Path) -> str:
    """Return the text of one recording from the result of `lines_by_name`.

    Raises:
        RowError: two of its lines differ.
    """
    text = lines[name]
    if text is None:
        raise RowError("several texts for one recording", f"{path.name} has two for {name}; keep the one that is said")
    return text
