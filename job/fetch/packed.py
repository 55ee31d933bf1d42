"""Say which archives and shards in a folder of recordings are not read, and which recordings lie unread beside tars."""

from __future__ import annotations

from pathlib import Path

from job.audio import audio_files
from job.config.paths import written_by_a_run
from job.core import console
from job.fetch import listing, recordings

_ARCHIVES = (".zip", ".rar", ".7z", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
#: Files that are read where they lie at the top of the folder, but not deeper.
_SHARDS = (".tar", ".parquet")
#: How many are named in a message.
_NAMED = 3


def unread(root: Path) -> str | None:
    """Name the archives anywhere in a folder, and the shards below its top, with what to do; None if there are none."""
    archives, shards = [], []
    for path in listing.all_below(root):
        name = path.name.lower()
        if name.endswith(_ARCHIVES):
            archives.append(path)
        elif name.endswith(_SHARDS) and path.parent not in (root, root / "data"):
            shards.append(path)
    found = []
    if archives:
        found.append(f"{_names(root, archives)}: unpack what has recordings or texts in it")
    if shards:
        found.append(f"{_names(root, shards)}: set DATA_DIR to {shards[0].parent}, or name both with DATASETS")
    return "; ".join(found) or None


def warn(root: Path) -> None:
    """Warn of archives and shards in a folder that is read without them; say where runs have written WAVs in it."""
    works = [root, *(path for path in sorted(root.iterdir()) if path.is_dir())]
    made = [path for work in works for path in sorted(work.iterdir()) if written_by_a_run(path) and _has_sounds(path)]
    if made:
        console.say("fetch", f"not read, since a run has written it: {_names(root, made)}")
    if (found := unread(root)) is not None:
        console.warn("fetch", f"not read: {found}")


def warn_beside_tars(root: Path) -> None:
    """Warn of recordings in a folder whose tars are read, and nothing else."""
    loose, _ = recordings.list_files(root)
    if loose:
        todo = "put them in a folder of their own, and name both with DATASETS"
        console.warn("fetch", f"the tars are read, and not what lies beside them: {_names(root, loose)}; {todo}")


def _has_sounds(path: Path) -> bool:
    paths = path.rglob("*") if path.is_dir() else [path]
    return any(audio_files.ending_of(one.name) for one in paths)


def _names(root: Path, paths: list[Path]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(str(path.relative_to(root)) for path in paths[:_NAMED]) + more
