"""Links to files that outlive the removal of their directory: copies that take no space and no time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from job.core import files


def link_tree(directory: Path, into: Path) -> None:
    """Link a directory's files, if it is there.

    Raises:
        FileNotFoundError: the directory was replaced meanwhile.
    """
    if not directory.is_dir():
        return
    before = directory.stat().st_ino
    for path in files.tree(directory):
        if files.is_whole(path):
            link(path, into / path.relative_to(directory))
    if directory.stat().st_ino != before:
        raise FileNotFoundError(directory)


def link(path: Path, into: Path) -> None:
    """Link a file, so that it outlives the removal of its directory; copy it where links are not possible."""
    into.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, into)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(path, into)
