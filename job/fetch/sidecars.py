"""Find transcripts next to their recordings or in a parallel folder, one file or one line per recording.

Next to `a.wav`, in this order: `a.wav.txt` or `a.txt`, `a.normalized.txt` and `a.original.txt` (LibriTTS), `a.lab`
(HTS, Montreal Forced Aligner), `a.json` (Emilia), a line of `*.trans.txt` (LibriSpeech). Timed transcripts
(`cue_files.py`) take precedence. Otherwise a text of the same name whose path differs in a single folder
(`txt/p1/a.txt` for `wav48/p1/a_mic1.flac`, as in VCTK).

A text is never used for another recording: `a.1.txt` does not belong to `a.wav`, `a.txt` not to `A.wav` if there is an
`a.wav`, and `a.normalized.txt` not to `a.wav` if there is an `a.normalized.wav`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from job.audio import audio_files
from job.core import storage
from job.fetch import cue_files, text_files
from job.fetch.listing import key
from job.fetch.table import RowError

#: Suffix of the file name when a sentence was recorded by several microphones or channels.
_MICROPHONE = re.compile(r"[._-](?:mic|ch|channel)[._-]?(\d+)$", re.IGNORECASE)
_TABLES = (".trans.txt", ".trans.tsv")
#: Language suffix in the name of a subtitle file (`talk.en.vtt`, `talk.pt-BR.srt`).
_LANGUAGE = re.compile(r"\.[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,4}){0,2}$")
#: What else may follow a recording's name in that of its subtitles: `.en.sdh`, `.English`, `_en`, ` (1)`, `.mp4`.
_MORE = re.compile(r"(?:[._ -](?:[A-Za-z]{2,9}|\d{3}|mp[34]|m4[av])| ?\(\d\))$")


#: How to have a recording transcribed all the same.
_OR_TRANSCRIBE = "; TRANSCRIBE=always transcribes it"


@dataclass(frozen=True)
class Source:
    """Where the text of a recording is: a file, or in a table of transcripts the line of the name `line`.

    `shared` are the folders below the root that both paths have in common, if the text is in a parallel folder.
    `timed` files give the times of each sentence. `untold`: there is none; `path` is the recording's, without ending.
    """

    path: Path
    line: str | None = None
    shared: tuple[str, ...] | None = None
    timed: bool = False
    untold: bool = False


class Sidecars:
    """The transcripts of a folder's recordings, matched by file name; a file is read only when it is needed."""

    def __init__(self, root: Path, audio: Iterable[Path], others: Iterable[Path]) -> None:
        self.root = root
        self._stems = {(path.parent, _plain(audio_files.stem(path.name))) for path in audio}
        self._spellings = Counter((folder, key(stem)) for folder, stem in self._stems)
        self._beside: dict[tuple[Path, str], list[Path]] = {}
        self._parallel: dict[str, list[Path]] = {}
        self._tables: dict[Path, list[Path]] = {}
        self._tagged: dict[tuple[Path, str], list[Path]] = {}
        self._perhaps: dict[tuple[Path, str], Path] = {}
        for path in others:
            if path.name.lower().endswith(_TABLES):
                self._tables.setdefault(path.parent, []).append(path)
            elif path.suffix.lower() in text_files.ENDINGS:
                self._beside.setdefault((path.parent, key(path.name)), []).append(path)
                if path.suffix.lower() in cue_files.ENDINGS and (tag := _LANGUAGE.search(path.stem)):
                    name = path.stem[: tag.start()] + path.suffix
                    self._tagged.setdefault((path.parent, key(name)), []).append(path)
                if path.suffix.lower() in cue_files.ENDINGS:
                    self._add_names_before(path)
                if path.suffix.lower() in (".txt", ".lab"):
                    self._parallel.setdefault(key(path.stem), []).append(path)
        self._lines = lru_cache(maxsize=8)(text_files.lines_by_name)

    def find(self, audio: Path) -> Source | None:
        """Find the text of a recording; None if it has none.

        Raises:
            RowError: there are several texts that differ.
        """
        stem = audio_files.stem(audio.name)
        plain = [*self._named(audio, f"{audio.name}.txt", stem), *self._named(audio, f"{stem}.txt", stem)]
        if plain:
            return Source(_one(plain, audio))
        for ending in (".normalized.txt", ".original.txt", ".lab", ".json"):
            if found := self._named(audio, stem + ending, stem):
                return Source(_one(found, audio))
        for table in self._tables.get(audio.parent, ()):
            if _plain(stem) in self._lines(table):
                return Source(table, _plain(stem))
        return self._in_parallel(audio, stem)

    def timed(self, audio: Path) -> Source | None:
        """Find the timed transcript next to a recording; None if there is none.

        Order of preference: `cue_files.ENDINGS`, then Whisper's JSON, then Audacity's labels.

        Raises:
            RowError: there are subtitles in several languages.
        """
        stem = audio_files.stem(audio.name)
        for ending in (*cue_files.ENDINGS, ".json", ".txt"):
            found = [*self._named(audio, stem + ending, stem), *self._named(audio, audio.name + ending, stem)]
            tagged = self._tagged.get((audio.parent, key(stem + ending)), ())
            found = found or [path for path in tagged if (path.parent, _plain(path.stem)) not in self._stems]
            with_times = [path for path in found if cue_files.holds_times(path)]
            if with_times and len(found) > 1:
                names = " and ".join(path.name for path in found[:3])
                raise RowError("several texts for one recording", f"{names} of {audio.name}; keep the one that is said")
            if with_times:
                return Source(with_times[0], timed=True)
        return None

    def values(self, audio: Path, source: Source) -> dict[str, Any]:
        """Read the text of a recording, and its speaker and language if the file has them.

        Raises:
            RowError: the file's contents are not a transcript, or not UTF-8.
        """
        if source.line is None:
            return text_files.read(source.path, audio)
        return {"text": text_files.of_line(self._lines(source.path), source.line, source.path)}

    def none(self, audio: Path) -> RowError:
        """Return the error for a recording without a text: what was looked for, and what exists instead."""
        stem = audio_files.stem(audio.name)
        what = f"{audio.name} has no {stem}.txt beside it"
        for ending in text_files.NOT_READ:
            for other in (f"{stem}{ending}", f"{audio.name}{ending}"):
                if self._beside.get((audio.parent, key(other))):
                    todo = f"save what is said as {stem}.txt, without times, or as {stem}.srt, with them"
                    return RowError("audio without text", f"{what}; {other} is not read: {todo}{_OR_TRANSCRIBE}")
        if (other_name := self._perhaps.get((audio.parent, key(stem)))) is not None:
            todo = f"call it {stem}{other_name.suffix} if it is what is said"
            return RowError("audio without text", f"{what}; {other_name.name} is not used: {todo}{_OR_TRANSCRIBE}")
        return RowError("audio without text", what)

    def _add_names_before(self, subtitles: Path) -> None:
        """Note for which recordings subtitles may be whose name goes on after the recording's: `talk.en.sdh.srt`."""
        stem = subtitles.stem
        while (more := _MORE.search(stem)) and (subtitles.parent, _plain(stem)) not in self._stems:
            stem = stem[: more.start()]
            self._perhaps.setdefault((subtitles.parent, key(stem)), subtitles)

    def has_unread(self, audio: Path) -> bool:
        """Whether a file in place of a transcript lies next to a recording, of a kind that is not read."""
        return "; " in self.none(audio).detail

    def _named(self, audio: Path, name: str, stem: str) -> list[Path]:
        """Return the files called `name` next to a recording, except those that belong to another recording."""
        found = [
            path
            for path in self._beside.get((audio.parent, key(name)), ())
            if (owner := _plain(path.stem)) == _plain(stem) or (path.parent, owner) not in self._stems
        ]
        exact = [path for path in found if _plain(path.stem) == _plain(Path(name).stem)]
        if not exact and self._spellings[(audio.parent, key(stem))] > 1:
            return []  # `AB.txt` may belong to `Ab.wav` or to `aB.wav`
        return exact or found

    def _in_parallel(self, audio: Path, stem: str) -> Source | None:
        names = [stem] + ([stem[: found.start()]] if (found := _MICROPHONE.search(stem)) else [])
        here = audio.parent.relative_to(self.root).parts
        for name in names:
            shared = {
                path: parts
                for path in self._parallel.get(key(name), ())
                if _plain(path.stem) == _plain(name)
                and (path.parent, _plain(path.stem)) not in self._stems
                and (parts := _shared(here, path.parent.relative_to(self.root).parts)) is not None
            }
            if shared:
                chosen = _one(list(shared), audio)
                return Source(chosen, None, shared[chosen])
        return None


def microphone(audio: Path) -> int | None:
    """Return the microphone number at the end of a file's name (2 for `p225_001_mic2.flac`); None if there is none."""
    found = _MICROPHONE.search(audio_files.stem(audio.name))
    return int(found[1]) if found else None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _one(found: list[Path], audio: Path) -> Path:
    """Return the first of several texts of a recording.

    Raises:
        RowError: they differ in more than punctuation and letter case.
    """
    for other in found[1:]:
        if _words(other) != _words(found[0]):
            detail = f"{found[0].name} and {other.name} of {audio.name} differ; keep the one with what is said"
            raise RowError("several texts for one recording", detail)
    return found[0]


def _words(path: Path) -> str | bytes:
    try:
        text = path.read_bytes()
        return "".join(c for c in unicodedata.normalize("NFKC", text.decode("utf-8-sig")).casefold() if c.isalnum())
    except OSError as error:
        storage.check(error, path)
        raise RowError("text cannot be read", f"{path.name}: {error.strerror}") from None
    except UnicodeDecodeError:
        return text


def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the common parts of two paths that differ in one part, or of which one has one part more; else None."""
    if len(one) == len(other):
        rests = {one[:i] + one[i + 1 :] for i in range(len(one))} & {
            other[:i] + other[i + 1 :] for i in range(len(one))
        }
        at = [rest for rest in rests if sum(a != b for a, b in zip(one, other, strict=True)) == 1]
        return at[0] if at else None
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    return shorter if shorter in {longer[:i] + longer[i + 1 :] for i in range(len(longer))} else None
