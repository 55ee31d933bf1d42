"""Several nodes without a common volume: each has a WORK_DIR of its own, and they share MIRROR_CHECKPOINTS."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import bucket
from tests.support.namespaces import ADDRESSES, NoNamespaces, two_namespaces
from tests.test_launch import free_port
from tests.test_pipeline import ROOT
from tests.train.test_resume import outcome

#: A short training that keeps state of every kind.
RUN = {
    "PRESET": "demo",
    "DEVICE": "cpu",
    "MAX_TRAIN_SAMPLES": "6",
    "MAX_STEPS": "16",
    "BATCH_SIZE": "1",
    "EVAL_STEPS": "4",
    "SAVE_STEPS": "2",
    "LOGGING_STEPS": "1",
    "TRAIN_MODE": "lora",
    "LORA_DROPOUT": "0.2",
    "SUB_TALKER_FRAME_FRACTION": "0.5",
    "PROBE_SENTENCES": "0",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "RENDEZVOUS_TIMEOUT": "240",
    "MIRROR_CHECKPOINTS": "s3://voices/own-disks",
}
BUCKET_PORT = 9000
#: Seconds for one run of both nodes.
LONGEST = 400


class Network:
    """Where the two nodes run, and the bucket that both reach."""

    def __init__(self, places: list[tuple[str, str]]) -> None:
        self._places = places
        self.addresses = ADDRESSES if places else ("127.0.0.1", "127.0.0.2")
        self.port = BUCKET_PORT if places else free_port()

    def command(self, index: int, *words: str) -> list[str]:
        """A command on node `index`."""
        return [*(["ip", "netns", "exec", self._places[index][0]] if self._places else []), *words]

    def variables(self, index: int) -> dict[str, str]:
        """How node `index` finds the other one and the bucket."""
        return {
            "NUM_NODES": "2",
            "NODE_RANK": str(index),
            "MASTER_ADDR": self.addresses[0],
            "GLOO_SOCKET_IFNAME": self._places[index][1] if self._places else "lo",
            **bucket.environment(self.addresses[0], self.port),
        }


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Two network namespaces, a local S3 in the first; two loopback addresses where namespaces are not permitted."""
    try:
        with two_namespaces() as places:
            yield Network(places)
    except NoNamespaces as reason:
        warnings.warn(f"{reason}: the nodes have loopback addresses instead", stacklevel=1)
        yield Network([])


@pytest.fixture
def store(network: Network) -> Iterator[None]:
    """An empty bucket."""
    command = network.command(0, sys.executable, "-m", "tests.support.bucket", network.addresses[0], str(network.port))
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline() == "serving\n"
        try:
            yield
        finally:
            server.kill()


class Nodes:
    """Two nodes, started together; what each says is in a file."""

    def __init__(self, network: Network, place: Path, works: tuple[Path, Path], **more: str) -> None:
        self.logs = [place / f"said-{index}" for index in range(2)]
        port = str(free_port())
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self.running = []
        for index, (work, log) in enumerate(zip(works, self.logs, strict=True)):
            own = {"WORK_DIR": str(work), "MASTER_PORT": port, **network.variables(index)}
            with open(log, "w") as out:
                process = subprocess.Popen(
                    network.command(index, sys.executable, "-m", "job", "run", "--until", "train"),
                    env={**kept, **RUN, **own, **more},
                    cwd=ROOT,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.running.append(process)

    def said(self, index: int) -> str:
        """What a node has said so far."""
        return self.logs[index].read_text()

    def end(self) -> list[int]:
        """Both exit codes."""
        try:
            return [process.wait(LONGEST) for process in self.running]
        finally:
            for process in self.running:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def finish(self) -> None:
        """Both end well."""
        codes = self.end()
        assert codes == [0, 0], f"{codes}\n{self.said(0)}\n---- node 1\n{self.said(1)}"

    def kill(self, index: int) -> int:
        """End a node as a machine ends that is taken away; returns the other one's exit code."""
        os.killpg(self.running[index].pid, signal.SIGKILL)
        return self.end()[1 - index]


def steps_of(work: Path) -> int:
    log = work / "output" / "training_log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def result(work: Path) -> Any:
    """What must be the same in the end: weights, logs but for times, and the data that were trained on."""
    prepared = work / "data" / "prepared"
    data = {str(path.relative_to(prepared)): path.read_bytes() for path in prepared.rglob("*") if path.is_file()}
    return data, outcome(work)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one node makes with the same number of processes in all."""
    work = tmp_path_factory.mktemp("one")
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    variables = {**kept, **RUN, "NUM_GPUS": "2", "MIRROR_CHECKPOINTS": "", "WORK_DIR": str(work)}
    command = [sys.executable, "-m", "job", "run", "--until", "train"]
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST)
    assert done.returncode == 0, done.stderr
    return result(work)


@pytest.mark.slow
def test_nodes_with_disks_of_their_own_end_as_one_node(
    network: Network, store: None, undisturbed: Any, tmp_path: Path
) -> None:
    """Bit for bit, and as two nodes on one volume. The second has only what it needs, apart from a run of its own."""
    works = tmp_path / "a", tmp_path / "b"
    nodes = Nodes(network, tmp_path, works, SHARED_WORK_DIR="false")
    nodes.finish()
    assert result(works[0]) == undisturbed
    assert [path.name for path in works[1].iterdir()] == ["node-1"], "what it trains from is not a run of its own"
    assert not list(works[1].rglob("*.wav")) and not list(works[1].rglob("best"))
    assert "[mirror] bringing back prepared" in nodes.said(1) and "[prepare]" not in nodes.said(1)

    volume = tmp_path / "volume"
    Nodes(network, tmp_path, (volume, volume), SHARED_WORK_DIR="true", MIRROR_CHECKPOINTS="").finish()
    assert result(volume) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wiped", "kills"),
    [
        pytest.param(False, 3, id="disks stay", marks=pytest.mark.thorough),
        pytest.param(True, 2, id="node 0 is a new machine each time"),
        pytest.param(True, 3, id="node 0 is a new machine three times", marks=pytest.mark.thorough),
    ],
)
def test_a_node_killed_at_random_moments_costs_nothing(
    network: Network, store: None, undisturbed: Any, tmp_path: Path, wiped: bool, kills: int
) -> None:
    """Each time both are started again: the same end. The other one ends with the resumable code."""
    dice = random.Random(f"own disks, {wiped}")
    works = tmp_path / "a", tmp_path / "b"
    places = [dice.randrange(0, 5), dice.randrange(5, 10), dice.randrange(10, 15)]
    for at in places[-kills:]:
        nodes = Nodes(network, tmp_path, works, SHARED_WORK_DIR="false")
        end = time.monotonic() + LONGEST
        while steps_of(works[0]) <= at and all(process.poll() is None for process in nodes.running):
            assert time.monotonic() < end, nodes.said(0)
            time.sleep(0.02)
        victim = dice.randrange(2)
        code = nodes.kill(victim)
        assert code == 143, f"node {victim} killed after step {at}: {code}\n{nodes.said(0)}\n----\n{nodes.said(1)}"
        if wiped:
            shutil.rmtree(works[0])
    nodes = Nodes(network, tmp_path, works, SHARED_WORK_DIR="false")
    nodes.finish()
    assert "[train] resuming from checkpoint-" in nodes.said(0)
    assert result(works[0]) == undisturbed
    assert json.loads((works[0] / "state" / "train.json").read_text())["counts"]["steps"] == int(RUN["MAX_STEPS"])
