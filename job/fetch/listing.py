"""Audio files by name, however a table spells it: without its ending, in other letter case, with marks decomposed."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from job.audio import audio_files
from job.core import files

#: Folders that hold no recordings of anybody, by the beginning of their name.
HIDDEN = (".", "__MACOSX")


def key(name: str) -> str:
    """What two spellings of a name have in common: letter case and the form of marks (NFC, NFD) aside."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class Names:
    """Audio files by what their names have in common with others: an index of paths, no contents."""

    def __init__(self, paths: Iterator[Path]) -> None:
        self._by_stem: dict[str, list[Path]] = {}
        for path in paths:
            if audio_files.ending_of(path.name) and not path.name.startswith("._"):
                self._by_stem.setdefault(key(audio_files.stem(path.name)), []).append(path)

    def spelled_like(self, name: str) -> list[Path]:
        """The files that `name` may mean.

        A name with an ending of sound means files with that ending; one without means any: `a.1` is `a.1.wav` and never
        `a.wav`. Of several, those that are spelled alike but for letter case give way to those that are not.
        """
        alike = self._by_stem.get(key(audio_files.stem(name)))
        if not alike:
            return []
        named = audio_files.ending_of(name)
        found = [path for path in alike if not named or audio_files.ending_of(path.name) == named]
        if len(found) < 2:
            return found
        plain = unicodedata.normalize("NFC", audio_files.stem(name))
        exact = [p for p in found if unicodedata.normalize("NFC", audio_files.stem(p.name)) == plain]
        return exact or found

    def other_endings(self, name: str) -> list[Path]:
        """Files that would be `name` but for their ending: worth a hint, not worth a guess."""
        return self._by_stem.get(key(audio_files.stem(name)), [])


def of_folder(folder: Path) -> Names:
    """The audio files that lie directly in a folder; none when it cannot be looked into."""
    try:
        return Names(path for path in sorted(folder.iterdir()) if path.is_file())
    except (OSError, ValueError):
        return Names(iter(()))


class Tree:
    """The audio files of a folder and of all folders below it; looked up when first asked, and then once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: Names | None = None

    def named(self, value: str) -> list[Path]:
        """Files anywhere in the tree that `value` (`a`, `a.wav`, `part1/a`) may mean, its folders being theirs."""
        if self._names is None:
            self._names = Names(path for path in files.tree(self.root, HIDDEN))
        parts = [key(part) for part in Path(value.replace("\\", "/")).parts]
        if not parts or Path(value).is_absolute() or ".." in parts:
            return []
        above = parts[:-1]
        return [
            path
            for path in self._names.spelled_like(Path(value.replace("\\", "/")).name)
            if not above or [key(p) for p in path.parent.parts[-len(above) :]] == above
        ]
