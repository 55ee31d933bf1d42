"""dstack's task around a stand-in for the image's entrypoint: variables, signals, and what is tried again."""

from __future__ import annotations

import copy
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

TOP = Path(__file__).resolve().parents[2]
TASK: dict[str, Any] = yaml.safe_load((TOP / "deploy/dstack/qwen3-tts-job.dstack.yml").read_text())
(SCRIPT,) = TASK["commands"]

#: Writes down how it was called, and ends as it is told.
ENTRYPOINT = """#!/usr/bin/env bash
echo "$* ${NUM_NODES-} ${NODE_RANK-} ${MASTER_ADDR-}" >>"$CALLS"
if [[ -n ${WAITS-} ]]; then
  trap 'echo stopped >>"$CALLS"; exit 143' TERM
  while :; do sleep 0.02; done
fi
exit "${CODE-0}"
"""


class Machine:
    def __init__(self, directory: Path) -> None:
        self.calls = directory / "calls"
        self.entrypoint = directory / "entrypoint.sh"
        self.entrypoint.write_text(ENTRYPOINT)
        self.entrypoint.chmod(0o755)

    def start(self, **variables: str) -> subprocess.Popen[str]:
        given = {"PATH": os.environ["PATH"], "CALLS": str(self.calls), "JOB_PAUSE": "0"}
        return subprocess.Popen(
            [*TASK["entrypoint"].split(), SCRIPT.replace("/opt/job/entrypoint.sh", str(self.entrypoint))],
            env={**given, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    @property
    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("code", "tries"), [(0, 1), (1, 3), (2, 1), (3, 1), (4, 1), (5, 3), (6, 1), (137, 3), (143, 3)]
)
def test_what_another_try_may_mend_is_tried_on_the_same_machine(machine: Machine, code: int, tries: int) -> None:
    process = machine.start(CODE=str(code), JOB_TRIES="3")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert [line.split() for line in machine.called] == [["run"]] * tries


def test_nodes_know_their_place(machine: Machine) -> None:
    process = machine.start(DSTACK_NODES_NUM="2", DSTACK_NODE_RANK="1", DSTACK_MASTER_NODE_IP="10.0.0.5")
    process.communicate(timeout=60)
    assert machine.called == ["run 2 1 10.0.0.5"]


def test_a_signal_reaches_the_job_which_is_not_started_again(machine: Machine) -> None:
    """dstack sends SIGINT to the shell alone; what a machine that was taken away leads to is dstack's to do."""
    process = machine.start(WAITS="1")
    deadline = time.monotonic() + 30
    while not machine.called:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)  # the stand-in's trap is set after it has written
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert [line.strip() for line in machine.called] == ["run", "stopped"]
    assert "GRACE_SECONDS=7" in TASK["env"], "it is killed after ten seconds"
    assert "interruption" in TASK["retry"]["on_events"] and "error" not in TASK["retry"]["on_events"]


def test_the_script_in_the_task_is_clean() -> None:
    checker = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([checker, "--shell=bash", "-"], input=SCRIPT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


#: The fields that the task uses, from dstack's reference; the client itself is asked where it is installed.
SIZE = {"type": "string", "pattern": r"^\d+GB(\.\.)?$"}
DURATION = {"type": "string", "pattern": r"^\d+[smhdw]$"}
FIELDS: dict[str, Any] = {
    "type": {"const": "task"},
    "name": {"type": "string", "pattern": "^[a-z][a-z0-9-]{1,40}$"},
    "image": {"type": "string"},
    "env": {"type": "array", "items": {"type": "string", "pattern": "^[A-Z_]+="}},
    "entrypoint": {"type": "string"},
    "commands": {"type": "array", "items": {"type": "string"}},
    "resources": {
        "type": "object",
        "properties": dict.fromkeys(("gpu", "memory", "disk", "shm_size"), SIZE),
        "additionalProperties": False,
    },
    "spot_policy": {"enum": ["spot", "on-demand", "auto"]},
    "retry": {
        "type": "object",
        "properties": {
            "on_events": {"type": "array", "items": {"enum": ["no-capacity", "interruption", "error"]}},
            "duration": DURATION,
        },
        "additionalProperties": False,
    },
    "max_duration": DURATION,
}


def test_the_task_has_dstacks_fields_only() -> None:
    schema = {"type": "object", "properties": FIELDS, "required": ["type"], "additionalProperties": False}
    jsonschema.validate(TASK, schema)
    wrong = copy.deepcopy(TASK)
    wrong["retry"]["on_events"] = ["preemption"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_dstack_itself_accepts_the_task() -> None:
    if importlib.util.find_spec("dstack") is None:
        pytest.skip("dstack is not installed")
    from dstack._internal.core.models.configurations import parse_apply_configuration

    task = parse_apply_configuration(copy.deepcopy(TASK))
    assert task.entrypoint == "bash -c" and task.image == TASK["image"]
