"""The run whose place in OUTPUT_DIR another one takes: kept in OUTPUT_DIR/earlier until that one has finished.

Whoever changes a variable by mistake loses no work: with the settings as they were, the earlier run is done if it had
finished, and else goes on from its newest checkpoint; the other one is kept in its place. Kept are that checkpoint, the
models, the candidates, the logs and the stage's record, as links to files that training replaces but never changes;
their space is given up when the disk is full.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from job.config.paths import Paths
from job.core import files, links
from job.core import state as stage_state
from job.core.console import say, warn
from job.train import resume

T = TypeVar("T")

#: The record of the stage, of a run that had finished.
RECORD = "train.json"
#: In a run that is on its way back: the other one has been kept, and its place is free.
_CLEARED = "cleared"


def set_aside(paths: Paths, key: str = "") -> str | None:
    """Keep the run in OUTPUT_DIR; its checkpoints there can be removed afterwards.

    One that is kept already stays if it has taken as many steps: the other is hardly more than a mistake then.

    Args:
        key: of the run that takes its place, whose own checkpoints are of no use if there are any.

    Returns:
        What is kept, in words; None if there is nothing to keep, or the disk is full.
    """
    newest, record = resume.latest(paths.output), _record(paths.state, paths)
    if newest is not None and resume.key_of(newest) == key:
        newest = None
    steps = _steps(newest, record)
    if steps < 0:
        return None
    if _steps(resume.latest(paths.earlier), _record(paths.earlier)) >= steps:
        say(
            "train",
            f"{paths.earlier} keeps the run that is there, which has taken as many steps as this one, {steps}, or more",
        )
        return None

    def fill(target: Path) -> None:
        for directory in (newest, paths.best, paths.last if record else None, paths.candidates):
            if directory is not None:
                links.link_tree(directory, target / directory.name)
        for log in paths.logs:
            if log.is_file():
                shutil.copyfile(log, target / log.name)  # lines are added to it
        if record:
            files.write_json(target / RECORD, record)

    try:
        files.replace_directory(paths.earlier, fill)
    except OSError as error:
        if not files.is_full(error):
            raise
        warn("train", f"the earlier run is not kept: OUTPUT_DIR={paths.output} is full")
        return None
    return f"the models of the finished run of {steps} steps" if record else f"checkpoint-{steps} and the best model"


def bring_back(paths: Paths, key: str = "", fingerprint: str = "") -> bool:
    """Put the run that is kept back into OUTPUT_DIR, and keep the one that is there instead.

    A kill in between leaves it on its way, and the next call goes on, whichever run that asks for.

    Args:
        key: of the run that is asked for: one that is kept with this key is brought back,
        fingerprint: or one that had finished with this fingerprint of the stage.
    """
    returning = _returning(paths)
    if not _is_whole(returning):
        shutil.rmtree(returning, ignore_errors=True)
        files.recover_directory(paths.earlier)
        kept, record = resume.latest(paths.earlier), _record(paths.earlier)
        same = kept is not None and resume.key_of(kept) == key
        finished = record is not None and record["fingerprint"] == fingerprint != ""
        if not (same or finished):
            return False
        os.replace(paths.earlier, returning)
    if not (returning / _CLEARED).exists():
        set_aside(paths, key)
        stage_state.begin(paths.state, "train")
        resume.clear(paths.output)
        shutil.rmtree(paths.candidates, ignore_errors=True)
        files.write_text(returning / _CLEARED, "")
    for directory in (paths.best, paths.last, paths.candidates):
        if (returning / directory.name).is_dir():
            files.replace_directory(directory, lambda new, old=directory.name: links.link_tree(returning / old, new))  # type: ignore[misc]
    for log in paths.logs:
        if (returning / log.name).is_file():
            files.write_with(log, lambda new, old=log.name: shutil.copyfile(returning / old, new))  # type: ignore[misc]
    # Last what it is known by: until both are gone it is on its way.
    checkpoint = resume.latest(returning)
    if record := _record(returning):
        files.write_json(paths.state / RECORD, record)
        (returning / RECORD).unlink()
    if checkpoint is not None:
        os.replace(checkpoint, paths.output / checkpoint.name)
        files.sync_directory(paths.output)
    shutil.rmtree(returning, ignore_errors=True)
    return True


def forget(paths: Paths) -> bool:
    """Remove the run that is kept; returns whether there was one."""
    files.recover_directory(paths.earlier)
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


def _record(directory: Path, paths: Paths | None = None) -> dict[str, Any] | None:
    """The stage's record of a finished run; None if there is none that counts, or what it names has gone (`paths`)."""
    found = stage_state.read(directory, "train")
    if not found or not found.get("fingerprint"):
        return None
    if paths is not None and not all(Path(output).exists() for output in found.get("outputs", [])):
        return None
    return found


def _steps(checkpoint: Path | None, record: dict[str, Any] | None) -> int:
    """How far a run has come; -1 if there is none."""
    if record is not None:
        return int(record.get("counts", {}).get("steps", 0))
    return -1 if checkpoint is None else resume.step_of(checkpoint)


def _is_whole(returning: Path) -> bool:
    return resume.latest(returning) is not None or _record(returning) is not None


def _returning(paths: Paths) -> Path:
    return paths.earlier.with_name(f".{paths.earlier.name}.returning")
