"""Which files another machine needs to resume, and copies of them that training no longer changes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from job.config.paths import Paths
from job.core import files, links

#: Names, in OUTPUT_DIR and WORK_DIR, of what is on its way to or from the mirror.
SCRATCH = ".mirror"


def data_files(paths: Paths) -> dict[str, Path]:
    """What fetch and prepare have made, without recordings and caches: `work/<path in WORK_DIR>` -> file."""
    data = paths.prepared.parent
    found = [*files.tree(paths.prepared), *data.glob("*.*"), *paths.raw.glob("*.jsonl")]
    found += [paths.state / f"{name}.json" for name in ("fetch", "prepare")]
    return {_within("work", path, paths.work): path for path in found if path.is_file() and files.is_whole(path)}


def link_checkpoint(paths: Paths, checkpoint: Path) -> dict[str, Path] | None:
    """Link a checkpoint, and what training resumes with beside it, into the scratch directory.

    Returns:
        `output/<path in OUTPUT_DIR>` -> file; None if something was replaced meanwhile.
    """
    scratch = paths.output / SCRATCH / checkpoint.name
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        for directory in (checkpoint, paths.best, *_candidates(paths)):
            links.link_tree(directory, scratch / directory.relative_to(paths.output))
        for name, size in files.read_json(checkpoint / "state.json")["logs"].items():
            with open(paths.output / name, "rb") as log:
                (scratch / name).write_bytes(log.read(size))  # lines of later steps follow
    except FileNotFoundError:
        shutil.rmtree(scratch, ignore_errors=True)
        return None
    return _below(scratch, "output")


def link_trained(paths: Paths) -> dict[str, Path]:
    """Link what a finished training has left, and its state file, into the scratch directory."""
    scratch = paths.output / SCRATCH / "trained"
    shutil.rmtree(scratch, ignore_errors=True)
    for directory in (paths.best, paths.last, *_candidates(paths)):
        links.link_tree(directory, scratch / "output" / directory.relative_to(paths.output))
    for log in paths.logs:
        links.link(log, scratch / "output" / log.name)
    state = paths.state / "train.json"
    (scratch / "work" / "state").mkdir(parents=True)
    shutil.copyfile(state, scratch / "work" / "state" / state.name)
    return {**_below(scratch / "output", "output"), **_below(scratch / "work", "work")}


def _candidates(paths: Paths) -> Iterator[Path]:
    return (path for path in sorted(paths.candidates.glob("step-*")) if path.is_dir())


def _below(directory: Path, root: str) -> dict[str, Path]:
    return {_within(root, path, directory): path for path in sorted(files.tree(directory))}


def _within(root: str, path: Path, directory: Path) -> str:
    return f"{root}/{path.relative_to(directory).as_posix()}"
