"""Say which archives and shards in a folder of recordings are not read, and which recordings lie unread beside tars."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from itertools import chain
from pathlib import Path

from job.audio import audio_files
from job.config.paths import written_by_a_run
from job.core import console, files
from job.fetch import listing, recordings

_ARCHIVES = (".zip", ".rar", ".7z", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
#: Files that are read where they lie at the top of the folder, but not deeper.
_SHARDS = (".tar", ".parquet")


def unread(root: Path, read: Collection[Path] = ()) -> str | None:
    """Name the archives anywhere in a folder, and the shards below its top, with what to do; None if there are none.

    Args:
        root: the folder.
        read: folders below it whose tars are read.
    """
    archives, shards, top = [], [], {root, root / "data"}
    for path in listing.all_below(root, strict=False):
        name = path.name.lower()
        if name.endswith(_ARCHIVES):
            archives.append(path)
        elif name.endswith(_SHARDS) and path.parent not in (top if name.endswith(".parquet") else {*top, *read}):
            shards.append(path)
    found = []
    if archives:
        found.append(f"{listing.some(root, archives)}: unpack what has recordings or texts in it")
    if shards:
        found.append(f"{listing.some(root, shards)}: set DATA_DIR to {shards[0].parent}, or name both with DATASETS")
    return "; ".join(found) or None


def warn(root: Path, read: Collection[Path] = ()) -> None:
    """Warn of archives and shards in a folder that is read without them, and of a work directory's WAVs in it.

    It never ends a run: what is read is read already.

    Args:
        root: the folder.
        read: folders below it whose tars are read.
    """
    with contextlib.suppress(OSError):
        if (own := works_own(root)) is not None:
            console.say("fetch", f"not read: {own}")
        if (found := unread(root, read)) is not None:
            console.warn("fetch", f"not read: {found}")


def works_own(root: Path) -> str | None:
    """Name what has sounds in it and is passed over as a work directory's own; None if there is nothing such.

    Looked for where the folder or one directly in it is the work directory. Whose sounds they are is not known: a
    folder of a person's recordings may be called `samples`, too.
    """
    works = [root, *_listed(root, folders=True)]
    inner = [path for work in works for path in (work, work / "data")]
    own = [path for folder in dict.fromkeys(inner) for path in _listed(folder)]
    own = [path for path in own if written_by_a_run(path) and _has_sounds(path)]
    return f"{listing.some(root, own)}: such names are WORK_DIR's own there; set another WORK_DIR" if own else None


def warn_beside_tars(root: Path) -> None:
    """Warn of recordings in a folder whose tars are read, and nothing else."""
    with contextlib.suppress(OSError):
        loose, _ = recordings.list_files(root, strict=False)
        if loose:
            beside = f"{listing.some(root, loose)}; put them in a folder of their own, and name both with DATASETS"
            console.warn("fetch", f"the tars are read, and not what lies beside them: {beside}")


def _listed(folder: Path, folders: bool = False) -> list[Path]:
    """Return what is in a folder, or only the folders, without hidden ones; nothing where it cannot be listed."""
    try:
        with os.scandir(folder) as found:
            names = [one.name for one in found if not folders or one.is_dir()]
    except OSError:
        return []
    return [folder / name for name in sorted(names) if not name.startswith(listing.HIDDEN)]


def _has_sounds(path: Path) -> bool:
    return any(audio_files.ending_of(one.name) for one in chain([path], files.tree(path)))
