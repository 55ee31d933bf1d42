"""Nodes with disks of their own begin from one checkpoint: the newest that the mirror holds and every node can have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from job.config.settings import Settings
from job.core import files
from job.core.errors import BadInput, FollowedRank
from job.mirror.folder_mirror import FolderMirror
from job.mirror.keeping import Mirror
from job.processes.per_node import on_own_disk
from job.processes.ranks import Ranks
from job.train import resume
from tests.mirror.test_going_on import (  # noqa: F401
    FETCH,
    FIRST,
    PREPARE,
    SECOND,
    THIRD,
    TRAIN,
    checkpoint,
    finish,
    hurried,
    machine,
    wait_for,
)
from tests.support.forked import in_two


def prepared(settings: Settings) -> None:
    """Data without rows, so that training's copy of them is quickly made."""
    files.write_json(settings.paths.prepared / "summary.json", {"books": 2})
    files.write_text(settings.paths.speakers, "vectors")
    files.write_text(settings.paths.manifest("train"), "{}\n")
    finish(settings, FETCH)
    finish(settings, PREPARE)


def whole(settings: Settings, step: int) -> None:
    """A checkpoint that training would resume from."""
    checkpoint(settings, step)
    directory = settings.paths.output / f"checkpoint-{step}"
    for name in ("optimizer.safetensors", "random.safetensors"):
        (directory / name).write_text(f"{name} after {step}")
    sums = {name: files.digest_file(directory / name) for name in resume._FILES}
    files.write_json(directory / "checksums.json", sums)


def trained(settings: Settings, *steps: int) -> None:
    """Training on one machine, each checkpoint in the mirror."""
    with Mirror(settings) as mirror:
        mirror.before(TRAIN)
        for step in steps:
            whole(settings, step)
            wait_for(settings, f"checkpoint-{step}")


def begun(tmp_path: Path, names: tuple[str, str], more: Callable[[int], dict[str, str]] = lambda rank: {}) -> Any:
    """Two nodes on these disks begin; what each then has to begin from, or how it ended."""
    (tmp_path / "meeting").mkdir()

    def node(ranks: Ranks) -> Any:
        given = {"NUM_NODES": "2", "NODE_RANK": str(ranks.rank), **more(ranks.rank)}
        settings = on_own_disk(machine(tmp_path, names[ranks.rank], **given))
        own = replace(ranks, local=0, node=ranks.rank, own_disks=True)
        try:
            with Mirror(settings, active=own.first, own_disks=True) as mirror:
                own.first_does(lambda: mirror.before(TRAIN))
                mirror.share(own)
        except (BadInput, FollowedRank) as error:
            return type(error).__name__, error.exit_code, str(error)
        found = sorted(settings.paths.output.glob("checkpoint-*"))
        return [(path.name, (path / "trained.safetensors").read_text()) for path in found]

    return in_two(node, tmp_path / "meeting")


def both(step: int) -> list[list[tuple[str, str]]]:
    return [[(f"checkpoint-{step}", f"weights after {step}")]] * 2


def test_a_new_first_node_and_a_new_second_begin_from_the_mirror(tmp_path: Path) -> None:
    """The first gets what resuming and publishing need; the second data and checkpoint, and nothing else."""
    old = machine(tmp_path, "old")
    prepared(old)
    trained(old, FIRST, SECOND)
    assert begun(tmp_path, ("new", "other")) == both(SECOND)
    assert (tmp_path / "new/output/best/model.safetensors").read_text() == f"best until {SECOND}"
    assert (tmp_path / "new/output/training_log.jsonl").read_text() == f"{FIRST}\n{SECOND}\n"
    kept = {path.relative_to(tmp_path / "other/node-1").parts[:2] for path in (tmp_path / "other").rglob("*.*")}
    assert kept == {("data", "prepared"), ("output", f"checkpoint-{SECOND}")}


def test_a_newer_checkpoint_of_the_first_node_reaches_the_others_through_the_mirror(tmp_path: Path) -> None:
    """Written, and the node killed before it was copied: no step of it is lost."""
    old = machine(tmp_path, "old")
    prepared(old)
    trained(old, FIRST)
    whole(old, SECOND)
    assert begun(tmp_path, ("old", "other")) == both(SECOND)
    assert list((tmp_path / "mirror").glob(f"run-*/checkpoint-{SECOND}.json"))


def test_what_only_the_first_node_has_is_taken_by_none(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket that takes nothing more: one node must not resume from a later step than the others."""
    old = machine(tmp_path, "old")
    prepared(old)
    trained(old, FIRST)
    whole(old, SECOND)

    def full(self: FolderMirror, name: str, source: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FolderMirror, "_write", full)
    assert begun(tmp_path, ("old", "other")) == both(FIRST)
    assert f"checkpoint-{SECOND} is left out: " in capfd.readouterr().err


def test_a_checkpoint_that_one_node_cannot_read_is_left_out_by_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first has it on its disk, and what the mirror holds of it is damaged."""
    old = machine(tmp_path, "old")
    prepared(old)
    trained(old, FIRST, SECOND)
    for path in (tmp_path / "mirror").glob("run-*/objects/*"):
        if path.read_bytes() == f"weights after {SECOND}".encode():
            path.write_bytes(f"Weights after {SECOND}".encode())
    assert begun(tmp_path, ("old", "other")) == both(FIRST)
    assert f"checkpoint-{SECOND} is not whole on every node, and is left out by all" in capfd.readouterr().err


def test_a_mirror_that_one_node_does_not_share_is_named_on_both(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A directory that has the same name on the second node and is another one there."""
    old = machine(tmp_path, "old")
    prepared(old)
    elsewhere = {"MIRROR_CHECKPOINTS": str(tmp_path / "elsewhere")}
    first, second = begun(tmp_path, ("old", "other"), lambda rank: elsewhere if rank else {})
    assert second[:2] == ("BadInput", 2) and "name a place that all nodes reach" in second[2]
    assert first[:2] == ("FollowedRank", 2)
    assert "node 1: MIRROR_CHECKPOINTS=" in capfd.readouterr().err
