"""A run over several processes and nodes: who does what, who waits for whom, and what is said when one is missing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job import launch
from job.config.settings import load
from job.core.errors import BadInput
from job.processes import per_node
from job.processes.ranks import Ranks
from tests.support.commands import run_job
from tests.test_pipeline import ROOT, start

#: A run that ends after prepare, whose doctor and fetch have next to nothing to do.
RUN = {"PRESET": "demo", "MAX_TRAIN_SAMPLES": "2", "PREPARE_ONLY": "true", "DEVICE": "cpu"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def node(rank: int, port: int, work: Path, **more: str) -> subprocess.Popen[str]:
    """One of two nodes, which are on this machine; see tests/k8s for two with addresses of their own."""
    variables = {**RUN, "WORK_DIR": str(work), "NUM_NODES": "2", "NODE_RANK": str(rank), "MASTER_PORT": str(port)}
    return start({**variables, "RENDEZVOUS_TIMEOUT": "90", **more})


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


# Who does what


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({"DEVICE": "cpu"}, 1),
        ({"DEVICE": "cpu", "NUM_GPUS": "2"}, 2),
        ({"DEVICE": "cpu", "NUM_GPUS": "0"}, 1),
        ({"DEVICE": "cuda:1"}, 1),
    ],
)
def test_processes_a_node(variables, count):
    assert per_node.processes_per_node(load({"PRESET": "demo", **variables})) == count


def test_more_gpus_than_there_are_is_bad_input():
    with pytest.raises(BadInput, match=r"NUM_GPUS=64: .* GPUs are visible"):
        per_node.processes_per_node(load({"PRESET": "demo", "DEVICE": "cuda", "NUM_GPUS": "64"}))


def test_one_gpu_by_its_number_is_not_several():
    """All processes would train on it, and exchange its tensors by the CPU."""
    with pytest.raises(BadInput, match=r"NUM_GPUS=2: DEVICE=cuda:1 is a single GPU; .*CUDA_VISIBLE_DEVICES"):
        per_node.processes_per_node(load({"PRESET": "demo", "DEVICE": "cuda:1", "NUM_GPUS": "2"}))


def test_only_what_is_worth_it_is_spread():
    settings = load({"PRESET": "demo", "DEVICE": "cpu", "NUM_GPUS": "2"})
    assert launch.is_spread(settings, "doctor", "report")
    assert launch.is_spread(settings, "train", "train")
    assert not launch.is_spread(settings, "doctor", "fetch")
    assert not launch.is_spread(settings, "validate", "report")
    assert not launch.is_spread(load({"PRESET": "demo", "DEVICE": "cpu"}), "doctor", "report")


def test_what_prepare_only_leaves_out_is_not_spread():
    """PREPARE_ONLY with a run that begins after prepare has nothing to do, in however many processes."""
    settings = load({"PRESET": "demo", "DEVICE": "cpu", "NUM_GPUS": "2", "PREPARE_ONLY": "true"})
    assert launch.is_spread(settings, "doctor", "report")
    assert not launch.is_spread(settings, "train", "report")


@pytest.mark.parametrize(
    ("codes", "cause"),
    [
        ([143, 4, -15], 4),
        ([2], 2),
        ([-15, 143], 143),
        ([143, -9], -9),
        ([1, 143], 1),
        ([-15], -15),
        ([], 1),
    ],
)
def test_the_exit_code_is_that_of_the_cause(codes, cause):
    """Processes that end one another: the code of the one that began."""
    assert launch._cause(codes) == cause


@given(parts=st.integers(1, 40), world=st.integers(1, 9), sharded=st.booleans())
def test_every_part_of_a_step_counts_once(parts, world, sharded):
    """Whatever the number of processes; under FSDP all of them meet equally often."""
    from job.train.spread import Spread

    taken = [Spread(Ranks(rank, world), sharded).mine(range(parts)) for rank in range(world)]
    counted = sorted(number for mine in taken for number, part, counts in mine if counts and number == part)
    assert counted == list(range(parts))
    if sharded:
        assert len({len(mine) for mine in taken}) == 1


# Nodes that wait for one another


@pytest.mark.slow
def test_two_nodes_meet_and_the_rest_is_done_once(tmp_path):
    """The second comes late; node 0 alone runs what is not spread, and both end with 0."""
    port = free_port()
    first = node(0, port, tmp_path)
    time.sleep(3)
    second = node(1, port, tmp_path)
    code, out, err = end(first)
    assert code == 0, err
    code, other, err = end(second)
    assert code == 0, err
    assert "[doctor] started" in out and "[prepare] done" in out
    assert "[doctor]" not in other and "[prepare]" not in other
    counts = json.loads((tmp_path / "state" / "prepare.json").read_text())["counts"]
    assert counts["train_rows"] == 2


@pytest.mark.slow
def test_a_failure_of_node_0_ends_the_other(tmp_path):
    """With the same exit code and a word, and not after RENDEZVOUS_TIMEOUT."""
    port = free_port()
    nodes = [node(rank, port, tmp_path, INIT_MODEL_PATH=str(tmp_path / "nowhere")) for rank in (1, 0)]
    (code_1, out_1, _), (code_0, _, err_0) = map(end, nodes)
    assert code_0 == 2 and "no training data" in err_0
    assert code_1 == 2 and "node 0 exited with code 2; see its log" in out_1


@pytest.mark.slow
def test_a_node_that_does_not_come_is_named(tmp_path):
    code, _, err = end(node(0, free_port(), tmp_path, RENDEZVOUS_TIMEOUT="3"))
    assert code == 1
    assert "1 of NUM_NODES=2 nodes connected within 3 s; missing: node 1" in err and "RENDEZVOUS_TIMEOUT" in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    port = free_port()
    code, _, err = end(node(1, port, tmp_path, RENDEZVOUS_TIMEOUT="3"))
    assert code == 1
    assert f"MASTER_ADDR=127.0.0.1:{port} did not answer within 3 s" in err


@pytest.mark.slow
def test_a_waiting_node_obeys_a_signal(tmp_path):
    process = node(1, free_port(), tmp_path)
    assert "connecting to node 0" in process.stdout.readline()
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    code, _, err = end(process)
    assert code == 143 and time.monotonic() - asked < 25
    assert "stopped by SIGTERM" in err


@pytest.mark.slow
def test_nodes_with_work_directories_of_their_own_are_refused(tmp_path):
    """They would train on different data, or wait for shards for ever."""
    script = "from job.processes import nodes; nodes.VOLUME_SECONDS = 1.0; import job.cli; job.cli.main()"
    port = free_port()
    first = node(0, port, tmp_path / "one")
    kept = {name: os.environ[name] for name in ("PATH", "HOME")}
    other = {**RUN, "WORK_DIR": str(tmp_path / "two"), "NUM_NODES": "2", "NODE_RANK": "1", "MASTER_PORT": str(port)}
    second = subprocess.Popen(
        [sys.executable, "-c", script, "run"],
        env={**kept, **other},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    code, _, err = end(first)
    assert code == 2 and "WORK_DIR=" in err and "on node 1 is not the volume that node 0 writes to" in err
    code, _, err = end(second)
    assert code == 2, err


def test_what_is_done_once_is_left_to_node_0(tmp_path, capsys):
    """`push` on every node would publish once a node."""
    variables = {**RUN, "WORK_DIR": tmp_path, "NUM_NODES": "2", "NODE_RANK": "1"}
    result = run_job(capsys, ["push"], variables)
    assert result.code == 0 and result.out == "[run] node 1: nothing to do here; only node 0 runs this command\n"
    assert not list(tmp_path.iterdir())


def test_a_node_rank_that_cannot_be_is_refused(tmp_path):
    code, _, err = end(node(2, free_port(), tmp_path))
    assert code == 2 and "NODE_RANK=2: nodes are numbered from 0, and NUM_NODES=2" in err


@pytest.mark.parametrize(("end", "code", "said"), [("sys.exit(4)", 4, ""), ("1 / 0", 1, "ZeroDivisionError")])
def test_a_process_that_fails_alone_waits_for_nothing(end, code, said):
    """NCCL's communicators are freed by all processes of a node together: its ordinary end would wait for them."""
    script = (
        "import sys, threading, time\n"
        "from job import cli\nfrom job.processes import joining\n"
        f"def fails(): {end}\n"
        "threading.Thread(target=time.sleep, args=(120,)).start()\n"
        "cli._main, joining._abandoned = fails, True\n"
        "print('the last word', end='')\n"
        "cli.main()\n"
    )
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.returncode == code
    assert process.stdout == "the last word"
    assert said in process.stderr and bool(said) == bool(process.stderr)
