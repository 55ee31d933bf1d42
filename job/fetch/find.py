"""Resolve the name that a row gives for its audio to a file on this machine.

Searched in this order: the exact path in the table's own folder; the exact path in the usual audio folders below it; in
all of these, a name without its extension or in different letter case; a file of that name anywhere below `tree`; then
the folders outside, one by one. If a step finds several files that are not the same recording, none is used: one of
them has words that differ from the row's.
"""

from __future__ import annotations

import os
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from job.audio import audio_files
from job.core import console, storage
from job.fetch import listing
from job.fetch.same import rate_of, same_recording
from job.fetch.table import RowError

#: Extensions that are tried, in the list of missing files, for a name without one.
_LIKELY = (".wav", ".flac", ".mp3", ".ogg")
#: The longest value that may be a path on another machine, in characters, and how many of its last parts are tried.
_LONGEST, _PARTS = 4096, 8


class Finder:
    """Finds the files of a run's rows; listings of folders are cached."""

    def __init__(self) -> None:
        self._folder = lru_cache(maxsize=64)(listing.of_folder)
        self._tree = lru_cache(maxsize=4)(listing.Tree)
        self._layout = lru_cache(maxsize=4)(_below_the_first)
        self._spelled: dict[str, str] = {}
        self._said = False

    def find(self, value: str, field: str, folders: list[Path], tree: Path | None = None) -> Path | None:
        """Return the absolute path of the file that `value` refers to; None if there is none.

        Raises:
            RowError: it is empty, of a format that cannot be read or in a folder that may not be entered, or `value` is
                ambiguous.
        """
        try:
            found = self._found(value, field, folders, tree)
        except PermissionError as error:
            hint = f"; there is {moved}" if (moved := self._moved(value, folders, tree)) is not None else ""
            raise RowError(
                f"{field} cannot be read", f"{error.filename}: permission denied{hint}", [error.filename]
            ) from None
        except (OSError, ValueError) as error:
            storage.check(error, value)
            return None  # an impossible file name (too long, a NUL)
        if found is None:
            return None
        if audio_files.ending_of(found.name) in audio_files.UNREADABLE:
            raise unreadable(found)
        if field == "audio":
            self._check_letters(value, found)
        return found.absolute()

    def missing(self, value: str, field: str, folders: list[Path], tree: Path | None = None) -> RowError:
        """Return the error for a name that `find` did not find, with the paths searched and a near match as a hint."""
        candidates = list(candidates_of(value, folders))
        if not audio_files.ending_of(value):
            candidates += [p.with_name(p.name + e) for e in _LIKELY for p in candidates if p.name]
        try:
            near = [p for c in candidates if c.name for p in self._folder(c.parent).other_endings(c.name)]
        except (OSError, ValueError) as error:
            storage.check(error)
            near = []
        hint = f"; there is {near[0].name}: name that if it is the recording" if near else ""
        if not near and (moved := self._moved(value, folders, tree)) is not None:
            hint = f"; there is {moved}: write names without the folders of another machine if it is the recording"
        return RowError(f"{field} is missing", f"no file {value[:200]!r}{hint}", [str(path) for path in candidates])

    def _moved(self, value: str, folders: list[Path], tree: Path | None) -> str | None:
        """Find a file by the end of its path, in case the path in `value` is from another machine."""
        if not folders or len(value) > _LONGEST:  # an address, or a recording written as text
            return None
        parts = value.replace("\\", "/").split("/")
        for first in range(max(1, len(parts) - _PARTS), len(parts)):
            tail = "/".join(parts[first:])
            try:
                found = _first(candidates_of(tail, folders)) if parts[-1] else None
                found = found or next(iter(self._tree(tree).named(tail) if tree is not None else []), None)
            except (OSError, ValueError) as error:
                storage.check(error)
                continue
            if found is not None:
                return _shown(found, folders[0])
        return None

    def _found(self, value: str, field: str, folders: list[Path], tree: Path | None) -> Path | None:
        own = folders[:1]
        if exact := _first(candidates_of(value, own)):
            return _settle([exact], value, field)
        layout = self._layout(tuple(folders))
        hits = [path for path in candidates_of(value, layout) if path.is_file()] if layout else []
        hits = hits or self._alike(value, [*own, *layout])
        if not hits and tree is not None and (hits := self._tree(tree).named(value)):
            self._say(f"{value!r} is looked for in all folders: {_shown(hits[0], tree)}; others likewise")
        if hits:
            return _settle(hits, value, field)
        for folder in folders[1:]:
            if folder not in layout and (exact := _first(candidates_of(value, [folder]))):
                return _settle([exact], value, field)
        for folder in folders[1:]:
            if folder not in layout and (hits := self._alike(value, [folder])):
                return _settle(hits, value, field)
        return None

    def _say(self, message: str) -> None:
        if not self._said:
            self._said = True
            console.say("fetch", message)

    def _alike(self, value: str, folders: list[Path]) -> list[Path]:
        """List the files in these folders that match `value` apart from the extension or letter case."""
        hits: list[Path] = []
        for path in candidates_of(value, folders):
            if path.name:
                hits += self._folder(path.parent).spelled_like(path.name)
        return hits

    def _check_letters(self, value: str, found: Path) -> None:
        """Refuse a file that two rows name in different letter case: one of them means another recording."""
        name = audio_files.stem(value.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])
        spelled = unicodedata.normalize("NFC", name)
        first = self._spelled.setdefault(str(found), spelled)
        if first != spelled:
            detail = f"{spelled!r} of this row and {first!r} of an earlier one would both be {found.name}; correct one"
            raise RowError("audio is ambiguous", detail)
        if spelled != unicodedata.normalize("NFC", audio_files.stem(found.name)):
            self._say(f"{value!r} is taken to be {found.name}; others in other letter case likewise")


def without_scheme(value: str) -> str:
    """Return the path in a `file:` address, decoded; any other value as it is."""
    found = re.match(r"file:(?://(?:localhost)?(?=/))?(?!//)", value, re.IGNORECASE)
    return urllib.parse.unquote(value[found.end() :]) if found else value


def unreadable(path: Path) -> RowError:
    """Return the error for a row whose audio is copy-protected."""
    kind = f"{path.suffix.lower()} files cannot be read"
    return RowError(kind, f"{path.name}: {audio_files.PROTECTED}")


def _below_the_first(folders: tuple[Path, ...]) -> list[Path]:
    """Return the folders that are inside the first one."""
    return [folder for folder in folders[1:] if folder.is_relative_to(folders[0])]


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def choose(paths: Iterable[Path]) -> Path | None:
    """Choose the best format among files of one recording; None if they are not the same recording."""
    first, *others = sorted(paths, key=lambda path: (audio_files.lossless_first(path), -rate_of(path)))
    return first if all(same_recording(first, other) for other in others) else None


def _settle(hits: list[Path], value: str, field: str) -> Path:
    """Choose the one file that is meant.

    Raises:
        RowError: it is empty, or there are several with different recordings.
    """
    if len(hits) > 1:
        hits = list({os.path.realpath(path): path for path in reversed(hits)}.values())[::-1]
    full = [path for path in hits if path.stat().st_size > 0]
    if not full:
        raise RowError(f"{field} is empty", hits[0].name, [str(path) for path in hits])
    if len(full) == 1:
        return full[0]
    readable = audio_files.before_films(full)
    if len(readable) == 1:
        return readable[0]
    chosen = choose(readable)
    if chosen is None:
        root = Path(os.path.commonpath([path.parent for path in readable]))
        names = " and ".join(_shown(path, root) for path in readable[:3])
        more = f" and {len(readable) - 3} more" if len(readable) > 3 else ""
        detail = f"{value[:200]!r} may be {names}{more}, which differ; write the folder and the ending"
        raise RowError(f"{field} is ambiguous", detail)
    return chosen


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def candidates_of(value: str, folders: list[Path]) -> Iterator[Path]:
    """Yield the paths that `value` may refer to: in each of `folders`, or itself if it is absolute.

    Spellings: as given, then with the backslashes of a manifest made on Windows converted; each with accented letters
    as given, composed (NFC, as typed) and decomposed (NFD, as macOS and its archives name files).
    """
    spellings = [value, value.replace("\\", "/")]
    if not value.isascii():
        spellings = [
            form for s in spellings for form in (s, unicodedata.normalize("NFC", s), unicodedata.normalize("NFD", s))
        ]
    for spelling in dict.fromkeys(spellings):
        try:
            os.fsencode(spelling)
            wanted = Path(spelling).expanduser()
        except (ValueError, RuntimeError):  # a lone surrogate, the home of an unknown user
            continue
        yield from [wanted] if wanted.is_absolute() else (folder / wanted for folder in folders)
