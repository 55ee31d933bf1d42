"""The run whose place in OUTPUT_DIR another one takes: kept in OUTPUT_DIR/earlier until that one has finished.

Whoever changes a variable by mistake loses no work: with the settings as they were, the earlier run goes on from its
newest checkpoint, and the other one is kept in its place. Kept are that checkpoint, the best model, the candidates and
the logs, as links to files that training replaces but never changes; their space is given up when the disk is full.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from job.config.paths import Paths
from job.core import files, links
from job.core.console import say, warn
from job.train import resume

T = TypeVar("T")


def set_aside(paths: Paths, key: str) -> str | None:
    """Keep the run in OUTPUT_DIR, in place of one kept before; its checkpoints there can be removed afterwards.

    Args:
        key: of the run that takes its place, whose own checkpoints are of no use if there are any.

    Returns:
        The name of its newest checkpoint; None if it has none, or the disk is full: then nothing is kept of it.
    """
    newest = resume.latest(paths.output)
    if newest is None or resume.key_of(newest) == key:
        return None

    def fill(target: Path) -> None:
        for directory in (newest, paths.best, paths.candidates):
            links.link_tree(directory, target / directory.name)
        for log in _logs(paths):
            if log.is_file():
                shutil.copyfile(log, target / log.name)  # lines are added to it

    try:
        files.replace_directory(paths.earlier, fill)
    except OSError as error:
        if not files.is_full(error):
            raise
        warn("train", f"the earlier run is not kept: OUTPUT_DIR={paths.output} is full")
        return None
    return newest.name


def bring_back(paths: Paths, key: str) -> bool:
    """Put the run that is kept back into OUTPUT_DIR, and keep the one that is there, if `key` is the kept one's.

    A kill in between leaves it on its way, and the next call goes on whatever its key is.
    """
    returning = _returning(paths)
    kept = resume.latest(paths.earlier)
    if resume.latest(returning) is None:
        shutil.rmtree(returning, ignore_errors=True)
        if kept is None or resume.key_of(kept) != key:
            return False
        os.replace(paths.earlier, returning)
    set_aside(paths, key)
    resume.clear(paths.output)
    shutil.rmtree(paths.candidates, ignore_errors=True)
    for directory in (paths.best, paths.candidates):
        if (returning / directory.name).is_dir():
            files.replace_directory(directory, lambda new, old=directory.name: links.link_tree(returning / old, new))  # type: ignore[misc]
    for log in _logs(paths):
        if (returning / log.name).is_file():
            files.write_with(log, lambda new, old=log.name: shutil.copyfile(returning / old, new))  # type: ignore[misc]
    checkpoint = resume.latest(returning)
    assert checkpoint is not None, "looked at above"
    os.replace(checkpoint, paths.output / checkpoint.name)  # last: until then it is on its way
    files.sync_directory(paths.output)
    shutil.rmtree(returning, ignore_errors=True)
    return True


def forget(paths: Paths) -> bool:
    """Remove the run that is kept; returns whether there was one."""
    there = paths.earlier.is_dir()
    files.remove_directory(paths.earlier)
    shutil.rmtree(_returning(paths), ignore_errors=True)
    return there


def making_room(paths: Paths, write: Callable[[], T]) -> T:
    """Write something; if the disk is full, once more without the run that is kept."""
    try:
        return write()
    except Exception as error:
        if not files.is_full(error) or not forget(paths):
            raise
    say("train", f"OUTPUT_DIR={paths.output} is full: the earlier run in {paths.earlier} was removed")
    return write()


def _returning(paths: Paths) -> Path:
    return paths.earlier.with_name(f".{paths.earlier.name}.returning")


def _logs(paths: Paths) -> tuple[Path, Path]:
    return paths.training_log, paths.validation_log
