"""A node that is lost where no socket tells of it: in the seconds of the meeting, or with its power or its network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch.distributed as dist

from job.core.errors import FollowedRank, PeerLost
from job.processes import joining
from tests.test_launch import free_port
from tests.test_own_disks import RUN, steps_of
from tests.test_pipeline import ROOT
from tests.train.test_resume import outcome

#: The command line, with signs of life that are missed sooner.
HURRIED = (
    "from job.processes import pulse; pulse.BEAT, pulse.SILENT, pulse.LINE = 0.5, 8.0, 4.0\n"
    "import job.cli; job.cli.main()"
)
#: Seconds from the loss to the others' end: the silence, what node 0 leaves to the others to read it, and to end.
SOON = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WORK_DIR with prepared data."""
    work = tmp_path_factory.mktemp("prepared")
    command = [sys.executable, "-m", "job", "run", "--until", "prepare"]
    subprocess.run(command, env=variables(work), cwd=ROOT, check=True, capture_output=True, timeout=200)
    return work


def variables(work: Path, **more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, **RUN, "MIRROR_CHECKPOINTS": "", "WORK_DIR": str(work), "GRACE_SECONDS": "6", **more}


class Two:
    """Two nodes that train on one volume."""

    def __init__(self, work: Path, place: Path, steps: str = "4000", second: dict[str, str] | None = None) -> None:
        self.logs = [place / f"said-{index}" for index in range(2)]
        self.nodes, port = [], str(free_port())
        for index, log in enumerate(self.logs):
            more = {"NUM_NODES": "2", "NODE_RANK": str(index), "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
            more |= (second or {}) if index else {}
            with open(log, "w") as out:
                command = [sys.executable, "-c", HURRIED, "run", "--from", "train", "--until", "train"]
                env = variables(work, SHARED_WORK_DIR="true", MAX_STEPS=steps, **more)
                self.nodes.append(psutil.Popen(command, env=env, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT))

    def wait_for(self, what: Any) -> None:
        """Wait until `what()` is true."""
        end = time.monotonic() + 200
        while not what():
            assert time.monotonic() < end and all(node.poll() is None for node in self.nodes), self.said()
            time.sleep(0.02)

    def said(self) -> str:
        return "\n---- node 1\n".join(log.read_text() for log in self.logs)

    def gone(self, index: int) -> tuple[int, list[str]]:
        """Node `index` stops to say anything, and keeps its sockets; exit code and errors of the other one."""
        node, other = self.nodes[index], self.nodes[1 - index]
        held = [node, *node.children(recursive=True)]
        try:
            for process in held:
                process.suspend()
            return self.end(other, 1 - index)
        finally:
            for process in held:
                process.kill()

    def killed(self, index: int) -> tuple[int, list[str]]:
        """Node `index` is killed; exit code and errors of the other one."""
        self.nodes[index].kill()
        return self.end(self.nodes[1 - index], 1 - index)

    def clean(self) -> None:
        """End what is left; processes end with their launcher."""
        for node in self.nodes:
            if node.poll() is None:
                node.kill()
                node.wait()

    def end(self, node: psutil.Popen, index: int) -> tuple[int, list[str]]:
        try:
            code = node.wait(SOON)
        except psutil.TimeoutExpired:
            pytest.fail(f"node {index} still waits\n{self.said()}")
        lines = self.logs[index].read_text().splitlines()
        return code, [line for line in lines if line.startswith(("error: ", "Traceback"))]


@pytest.fixture
def two(data: Path, tmp_path: Path) -> Iterator[Two]:
    shutil.copytree(data, tmp_path / "work")
    nodes = Two(tmp_path / "work", tmp_path)
    yield nodes
    nodes.clean()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_node_lost_while_the_processes_meet_is_noticed_soon(two: Two, lost: int) -> None:
    """The others' processes have started and wait for it; they would do so for half an hour, on rented GPUs."""
    two.wait_for(lambda: "1 processes on each of 2 nodes" in two.logs[1 - lost].read_text())
    code, errors = two.killed(lost)
    assert code == 143, two.said()
    assert f"node {lost}" in errors[-1] and "run the same command on all nodes again" in errors[-1], two.said()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_node_that_falls_silent_in_training_is_named(two: Two, tmp_path: Path, lost: int) -> None:
    """A machine without power or network closes no socket: gloo waits half an hour, control messages two days."""
    two.wait_for(lambda: steps_of(tmp_path / "work") > 2)
    code, errors = two.gone(lost)
    assert code == 143, two.said()
    assert f"no sign of life from node {lost}" in errors[-1], two.said()
    assert "[run] node 1 works with the others" in two.logs[1].read_text(), "its log must not look like a hang"
    assert "[run] node 0 works" not in two.logs[0].read_text()


@pytest.mark.slow
def test_a_killed_process_is_started_again_in_place(data: Path, tmp_path: Path) -> None:
    """Two nodes on one volume: no launcher ends, no scheduler is needed, and the end is that of an undisturbed run."""
    works = tmp_path / "undisturbed", tmp_path / "work"
    for work in works:
        shutil.copytree(data, work)
    alone = variables(works[0], NUM_GPUS="2")
    command = [sys.executable, "-m", "job", "run", "--from", "train", "--until", "train"]
    subprocess.run(command, env=alone, cwd=ROOT, check=True, capture_output=True, timeout=200)
    two = Two(works[1], tmp_path, RUN["MAX_STEPS"])
    try:
        two.wait_for(lambda: (works[1] / "output" / "checkpoint-4").exists())
        (worker,) = two.nodes[1].children()
        worker.kill()
        codes = [node.wait(200) for node in two.nodes]
    finally:
        two.clean()
    assert codes == [0, 0], two.said()
    said = [log.read_text() for log in two.logs]
    assert "a process was killed by SIGKILL" in said[1], said[1]
    assert all("starting the processes again, 1 of MAX_RESTARTS=3" in one for one in said), two.said()
    assert "[train] resuming from checkpoint-" in said[0], said[0]
    assert outcome(works[0]) == outcome(works[1])


@pytest.mark.slow
def test_both_logs_say_why_a_run_is_refused(data: Path, tmp_path: Path) -> None:
    """One line with the variable on node 0, and on the other one where to read it; the same exit code."""
    shutil.copytree(data, tmp_path / "work")
    two = Two(tmp_path / "work", tmp_path, second={"LEARNING_RATE": "0.01"})
    try:
        codes = [node.wait(200) for node in two.nodes]
    finally:
        two.clean()
    assert codes == [2, 2], two.said()
    first, second = (log.read_text() for log in two.logs)
    assert "error: LEARNING_RATE is '0.003' on node 0 and '0.01' on node 1; set the same" in first, first
    assert "[run] node 1 ends with exit code 2; node 0's log says why" in second and "error: " not in second, second


def test_processes_that_do_not_come_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the meeting's own timeout; one line for each node."""
    monkeypatch.setattr(joining, "MEETING", joining.timedelta(seconds=1))
    store = dist.TCPStore("127.0.0.1", free_port(), is_master=True, wait_for_workers=False)
    with pytest.raises(PeerLost, match=r"have not met: processes 1 of 2 did not come .*run the same command on all"):
        joining._met(store, 0, 2, 0, cuda=False, apart=True, exchange=False)
    with pytest.raises(FollowedRank):
        joining._met(store, 0, 2, 1, cuda=False, apart=True, exchange=False)
