"""Copies of directories: links to their files, which take no space and no time, or files of their own."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
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


def copy_tree(source: Path, into: Path, ignore: Callable[[str, list[str]], set[str]] | None = None) -> None:
    """Copy a directory. Of several errors the first is raised: shutil gathers them in one that has no number.

    Args:
        ignore: as `shutil.copytree` takes it.
    """
    try:
        shutil.copytree(source, into, dirs_exist_ok=True, ignore=ignore)
    except shutil.Error as error:
        _, target, reason = error.args[0][0]
        number = re.search(r"\[Errno (\d+)\]", str(reason))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(target)) from error
