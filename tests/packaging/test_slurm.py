"""The Slurm script around stand-ins for Slurm and Apptainer: what the job gets, signals, and what is queued again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SCRIPT = TOP / "deploy/slurm/qwen3-tts-job.sbatch"

#: One task a node, side by side, each in Slurm's environment; SIGTERM goes to the tasks, as Slurm sends it.
SRUN = """#!/usr/bin/env python3
import os, signal, subprocess, sys
command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
tasks = [
    subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(n), "SLURM_PROCID": str(n)})
    for n in range(int(os.environ["SLURM_JOB_NUM_NODES"]))
]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""
#: Writes down what it was called with, and behaves as it is told.
APPTAINER = """#!/usr/bin/env python3
import json, os, signal, sys, time
given = {k[len("APPTAINERENV_"):]: v for k, v in os.environ.items() if k.startswith("APPTAINERENV_")}
with open(f"{os.environ['CALLS']}-{given['NODE_RANK']}", "w") as file:
    json.dump({"arguments": sys.argv[1:], "variables": given}, file)
if os.environ.get("WAITS"):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    time.sleep(60)
sys.exit(int(os.environ.get("CODE", "0")))
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo node-a; echo node-b; else echo "$*" >>"$CALLS-requeued"; fi
"""


class Cluster:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls = directory / "calls"
        programs = directory / "bin"
        programs.mkdir()
        for name, text in (("srun", SRUN), ("apptainer", APPTAINER), ("scontrol", SCONTROL)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self.home = directory / "home of me"
        self.home.mkdir()
        (self.home / "qwen3-tts-job.sif").touch()
        (self.home / "qwen3-tts.env").write_text("SPEAKER_NAME=kari\n")
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(self.home), "CALLS": str(self.calls),
            "SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "node-[a-b]",
        }  # fmt: skip

    def submit(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPT), *arguments], env={**self.environment, **variables},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def task(self, number: int = 0) -> dict:
        return json.loads(Path(f"{self.calls}-{number}").read_text())

    @property
    def requeued(self) -> list[str]:
        file = Path(f"{self.calls}-requeued")
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_the_job_gets_its_variables_its_directories_and_the_token_as_a_file(cluster: Cluster) -> None:
    token = cluster.home / ".cache/huggingface/token"
    token.parent.mkdir(parents=True)
    token.write_text("hf_" + "t" * 30)
    recordings = cluster.directory / "clips"
    recordings.mkdir()
    process = cluster.submit("run", "--until", "prepare", JOB_RECORDINGS=str(recordings))
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    task = cluster.task()
    image = str(cluster.home / "qwen3-tts-job.sif")
    assert task["arguments"][-4:] == [image, "run", "--until", "prepare"]
    assert {"--nv", "--containall"} <= set(task["arguments"])
    bound = task["arguments"][task["arguments"].index("--bind") + 1].split(",")
    work = cluster.home / "qwen3-tts-work"
    assert work.is_dir() and f"{work}:/work" in bound and f"{recordings}:/recordings:ro" in bound
    assert f"{token}:/run/hf_token:ro" in bound and f"{cluster.home}/qwen3-tts.env:/run/job.env:ro" in bound
    assert task["variables"] == {
        "WORK_DIR": "/work", "ENV_FILE": "/run/job.env", "HF_TOKEN_FILE": "/run/hf_token", "NODE_RANK": "0",
    }  # fmt: skip
    assert "t" * 30 not in said + json.dumps(task)
    assert cluster.requeued == []


def test_several_nodes_make_one_run(cluster: Cluster) -> None:
    process = cluster.submit(SLURM_JOB_NUM_NODES="2")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    for number in range(2):
        variables = cluster.task(number)["variables"]
        assert variables["NODE_RANK"] == str(number)
        assert (variables["NUM_NODES"], variables["MASTER_ADDR"]) == ("2", "node-a")
    assert (cluster.home / "qwen3-tts-work").is_dir(), "each task makes it, which may be on its node's own disk"


@pytest.mark.parametrize(("code", "again"), [(0, False), (1, True), (2, False), (3, False), (4, False), (5, True),
                                             (6, False), (137, True), (143, True)])  # fmt: skip
def test_what_a_retry_may_mend_is_queued_again(cluster: Cluster, code: int, again: bool) -> None:
    process = cluster.submit(CODE=str(code))
    process.communicate(timeout=60)
    assert process.returncode == code
    assert cluster.requeued == (["requeue 77"] if again else [])


def test_it_is_not_queued_again_for_ever(cluster: Cluster) -> None:
    process = cluster.submit(CODE="1", SLURM_RESTART_COUNT="5")
    process.communicate(timeout=60)
    assert process.returncode == 1 and cluster.requeued == []


def test_a_signal_before_the_time_limit_reaches_the_job_which_is_queued_again(cluster: Cluster) -> None:
    process = cluster.submit(WAITS="1")
    deadline = time.monotonic() + 30
    while not Path(f"{cluster.calls}-0").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)  # the stand-in's handler is set after it has written
    step = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    for one in step:  # `--signal` without B: to the steps, not to the script
        os.kill(int(one), signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert cluster.requeued == ["requeue 77"] and "queued again, try 2" in said


@pytest.mark.parametrize("missing", ["qwen3-tts-job.sif", "qwen3-tts.env"])
def test_what_is_missing_is_named_before_anything_runs(cluster: Cluster, missing: str) -> None:
    (cluster.home / missing).unlink()
    process = cluster.submit()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and missing in said
    assert not Path(f"{cluster.calls}-0").exists()
