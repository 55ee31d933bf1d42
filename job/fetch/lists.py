"""Read GPT-SoVITS annotation files (`.list`), also written by Bert-VITS2: `audio|speaker|language|text` per line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from job.core import storage
from job.fetch import sheets
from job.fetch.table import Row, RowError, Table, Unreadable

ENDINGS = (".list", ".lst")

#: Country codes that these tools write in place of language codes.
_COUNTRIES = {"jp": "ja", "kr": "ko", "cn": "zh"}


def open_table(path: Path, where: str) -> Table:
    """Open a `.list` file as a table; one with other columns is read like any delimited file.

    If the folder of the audio no longer exists, it is looked up by file name alone, as GPT-SoVITS does, but only if no
    two paths in the list share that name.

    Raises:
        BadInput: it is missing or not text.
    """
    if not path.is_file() or _first_line(path).count(b"|") < 3:
        return sheets.open_table(path, where)
    several = _names_of_several(path)
    folders = [path.parent, *(path.parent / name for name in (*sheets.AUDIO_FOLDERS, "slicer_opt"))]
    folders += [path.parent.parent, Path.cwd()]

    def read() -> Iterator[Row | Unreadable]:
        with open(path, "rb") as handle:
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    try:
                        yield Row(number, _values(line.decode("utf-8-sig").strip(), several, folders))
                    except UnicodeDecodeError:
                        yield Unreadable(number, RowError("not UTF-8", "save the file as UTF-8"))
                    except RowError as error:
                        yield Unreadable(number, error)

    return Table(path.name, where, ["audio", "speaker", "language", "text"], read, folders=folders)


def _first_line(path: Path) -> bytes:
    """Return the first line that is not blank; empty if the file cannot be read or that line contains a NUL byte."""
    try:
        with open(path, "rb") as handle:
            first = next((line for line in handle if line.strip()), b"")
    except OSError as error:
        storage.check(error, path)
        return b""
    return b"" if b"\0" in first else first


def _values(line: str, several: set[str], folders: list[Path]) -> dict[str, Any]:
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) not in (4, 7):  # 7: Bert-VITS2 adds phonemes, tones and their number per word
        raise RowError("not audio|speaker|language|text", f"{len(cells)} cells; the text must have no |")
    audio, speaker, language, text = cells[:4]
    if not _is_language(language):
        raise RowError("not audio|speaker|language|text", f"{language[:40]!r} is no language")
    name = _name(audio)
    if name not in several and not any((folder / audio.replace("\\", "/")).is_file() for folder in folders):
        audio = name
    language = language.lower().removeprefix("all_")
    return {
        "audio": audio or None,
        "speaker": speaker or None,
        "language": None if language.startswith("auto") else _COUNTRIES.get(language, language),
        "text": text or None,
    }


def _names_of_several(path: Path) -> set[str]:
    """Return the file names that several different audio paths share."""
    first: dict[str, str] = {}
    several: set[str] = set()
    with open(path, encoding="utf-8-sig", errors="replace") as handle:
        for line in handle:
            audio = line.partition("|")[0].strip()
            if first.setdefault(_name(audio), audio) != audio:
                several.add(_name(audio))
    return several


def _name(audio: str) -> str:
    return audio.replace("\\", "/").rsplit("/", 1)[-1]


@lru_cache(maxsize=256)
def _is_language(cell: str) -> bool:
    """Whether a cell names a language: `ZH`, `JP`, `all_zh`, `auto`, `English`."""
    import langcodes

    value = cell.lower().removeprefix("all_")
    if value in _COUNTRIES or re.fullmatch(r"auto(_\w+)?", value):
        return True
    if re.fullmatch(r"[a-z]{2,3}([-_]\w+)*", value):
        return langcodes.tag_is_valid(value)
    try:
        return bool(langcodes.find(value))
    except LookupError:
        return False
