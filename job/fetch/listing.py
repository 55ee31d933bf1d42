"""List a folder, and index audio files by name, whatever their ending, letter case and Unicode form (NFC, NFD)."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from job.audio import audio_files
from job.config.paths import written_by_a_run
from job.core import files, storage

#: Prefixes of the names of folders that are skipped because they contain no recordings.
HIDDEN = (".", "__MACOSX")
#: Folders at the root of a volume that its file system, its server or Windows keeps for itself.
_SYSTEMS = {"lost+found", "#recycle", "@recycle", "@eadir", "#snapshot", "system volume information", "$recycle.bin"}
#: Names of a folder's table, the first that is there is read.
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.tsv")
#: How many files are named in a message.
_NAMED = 3


def key(name: str) -> str:
    """Return a key that is equal for all spellings of a name, ignoring letter case and normalization (NFC, NFD)."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class Names:
    """An index of audio files by the key of their name without extension; contents are not read."""

    def __init__(self, paths: Iterator[Path]) -> None:
        self._by_stem: dict[str, list[Path]] = {}
        for path in paths:
            if audio_files.ending_of(path.name) and not path.name.startswith("._"):
                self._by_stem.setdefault(key(audio_files.stem(path.name)), []).append(path)

    def spelled_like(self, name: str) -> list[Path]:
        """Return the files that `name` may refer to.

        A name with an audio extension matches only files with that extension; one without matches any: `a.1` is
        `a.1.wav` and never `a.wav`. If there are several, exact spellings take precedence over those that differ in
        letter case.
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
        """Return files that match `name` except for the extension: good enough for a hint, not for a guess."""
        return self._by_stem.get(key(audio_files.stem(name)), [])


def of_folder(folder: Path) -> Names:
    """Index the audio files directly in a folder; empty if it cannot be read."""
    try:
        return Names(path for path in sorted(folder.iterdir()) if path.is_file())
    except (OSError, ValueError) as error:
        storage.check(error, folder)
        return Names(iter(()))


def all_below(root: Path, strict: bool = True) -> Iterator[Path]:
    """Yield all files below a folder but hidden ones, and those that a run has written (WORK_DIR may be in DATA_DIR).

    Args:
        strict: False passes over folders that cannot be listed: enough for a message.

    Raises:
        OSError: one of its folders cannot be listed, so that nobody could say what is missing.
    """

    def unread(error: OSError) -> None:
        gone = isinstance(error, FileNotFoundError)  # meanwhile, as by a copy that is under way
        if not gone and Path(str(error.filename)).name.lower() not in _SYSTEMS:
            raise error

    return files.tree(root, HIDDEN, unread if strict else None, written_by_a_run)


def begins_like(name: str, stems: Collection[str]) -> bool:
    """Whether a file's name is a recording's with more endings: `a.normalized.txt`, `a.wav.txt`, `a.info.json`.

    Args:
        stems: the recordings' names without their endings, as `key` spells them.
    """
    parts = key(name).split(".")
    return any(".".join(parts[:count]) in stems for count in range(1, len(parts)))


def some(root: Path, paths: Sequence[Path]) -> str:
    """The first few files by their places in a folder, and how many more there are."""
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(str(path.relative_to(root)) for path in paths[:_NAMED]) + more


class Tree:
    """The audio files in a folder and all folders below it, listed once, on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: Names | None = None

    def named(self, value: str) -> list[Path]:
        """Find files anywhere in the tree that match `value` (`a`, `a.wav`, `part1/a`), including its folders."""
        if self._names is None:
            self._names = Names(path for path in files.tree(self.root, HIDDEN, skip=written_by_a_run))
        parts = [key(part) for part in Path(value.replace("\\", "/")).parts]
        if not parts or Path(value).is_absolute() or ".." in parts:
            return []
        above = parts[:-1]
        return [
            path
            for path in self._names.spelled_like(Path(value.replace("\\", "/")).name)
            if not above or [key(p) for p in path.parent.parts[-len(above) :]] == above
        ]
