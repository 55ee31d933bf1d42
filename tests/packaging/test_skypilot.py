"""SkyPilot's task around a stand-in for Docker: what the container gets, signals, and what is tried again."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

TOP = Path(__file__).resolve().parents[2]
FILE = TOP / "deploy/skypilot/qwen3-tts-job.yaml"
TASK: dict[str, Any] = yaml.safe_load(FILE.read_text())

#: Writes down each `docker run`, and ends it as it is told; a container that waits is stopped by `docker stop`.
DOCKER = """#!/usr/bin/env bash
case $1 in
run)
  printf '%s\\n' "$@" >"$CALLS/run-$(ls "$CALLS" | grep -c run-)"
  cp "$HOME/.qwen3-tts-token" "$CALLS/token"
  if [[ -n ${WAITS-} ]]; then
    while [[ ! -e $CALLS/stopped ]]; do sleep 0.02; done
    exit 143
  fi
  exit "$CODE" ;;
stop) touch "$CALLS/stopped" ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment that SkyPilot gives the script on a machine, with a home of its own."""
    (tmp_path / "calls").mkdir()
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    home = tmp_path / "home of me"
    home.mkdir()
    envs = {name: str(value) for name, value in TASK["envs"].items()}
    return {
        **envs, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(home), "CALLS": str(tmp_path / "calls"),
        "HF_TOKEN": "hf_" + "t" * 30, "CODE": "0", "JOB_PAUSE": "0",
    }  # fmt: skip


def start(machine: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "-c", TASK["run"]], env=machine, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def runs(machine: dict[str, str]) -> list[list[str]]:
    return [file.read_text().splitlines() for file in sorted(Path(machine["CALLS"]).glob("run-*"))]


def test_the_container_is_confined_and_gets_variables_work_and_the_token_as_a_file(machine: dict[str, str]) -> None:
    process = start({**machine, "JOB_COMMAND": "run --until prepare"})
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    (run,) = runs(machine)
    assert run[run.index(TASK["envs"]["JOB_IMAGE"]) + 1 :] == ["run", "--until", "prepare"]
    home = machine["HOME"]
    options = dict(pairwise(run))
    assert {"--read-only", "no-new-privileges", "/tmp:mode=1777"} <= set(run)
    assert (options["--cap-drop"], options["--gpus"]) == ("ALL", "all")
    assert options["--user"] == f"{os.getuid()}:{os.getgid()}"
    assert [run[n + 1] for n, word in enumerate(run) if word == "-v"] == [
        f"{home}/qwen3-tts-work:/work", f"{home}/qwen3-tts.env:/run/job.env:ro",
        f"{home}/.qwen3-tts-token:/run/hf_token:ro",
    ]  # fmt: skip
    assert [run[n + 1] for n, word in enumerate(run) if word == "-e"] == [
        "WORK_DIR=/work", "ENV_FILE=/run/job.env", "HF_TOKEN_FILE=/run/hf_token",
    ]  # fmt: skip
    token = Path(home) / ".qwen3-tts-token"
    assert token.read_text() == machine["HF_TOKEN"] and token.stat().st_mode & 0o777 == 0o600
    assert machine["HF_TOKEN"] not in said + "".join(run)
    assert TASK["file_mounts"] == {"~/qwen3-tts.env": "~/qwen3-tts.env"}


@pytest.mark.parametrize(("code", "tries"), [(1, 3), (2, 1), (3, 1), (4, 1), (5, 3), (6, 1), (137, 3), (143, 1)])
def test_what_another_try_may_mend_is_tried_on_the_same_machine(machine: dict[str, str], code: int, tries: int) -> None:
    """And then is given up; 143 is left to SkyPilot, which rents another machine."""
    process = start({**machine, "CODE": str(code), "JOB_TRIES": "3"})
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert len(runs(machine)) == tries


def test_a_signal_stops_the_container_and_the_run_is_resumed_elsewhere(machine: dict[str, str]) -> None:
    process = start({**machine, "WAITS": "1"})
    deadline = time.monotonic() + 30
    while not runs(machine):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert (Path(machine["CALLS"]) / "stopped").exists() and len(runs(machine)) == 1
    assert 143 in TASK["resources"]["job_recovery"]["recover_on_exit_codes"]


#: The fields that the task uses, from SkyPilot's YAML reference; the client itself is asked where it is installed.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9-]+$"},
        "resources": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "accelerators": {"type": "object", "patternProperties": {r"^[\w-]+:\d+$": {"type": "null"}}},
                "use_spot": {"type": "boolean"},
                "disk_size": {"type": "integer"},
                "job_recovery": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"recover_on_exit_codes": {"type": "array", "items": {"type": "integer"}}},
                },
            },
        },
        "file_mounts": {"type": "object", "additionalProperties": {"type": "string"}},
        "envs": {"type": "object", "additionalProperties": {"type": ["string", "integer"]}},
        "secrets": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
        "run": {"type": "string"},
    },
}


def test_the_task_has_skypilots_fields_only() -> None:
    jsonschema.validate(TASK, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**TASK, "resources": {**TASK["resources"], "use_spots": True}}, SCHEMA)


def test_the_script_in_the_task_is_clean() -> None:
    checker = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([checker, "--shell=bash", "-"], input=TASK["run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_skypilot_itself_accepts_the_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if importlib.util.find_spec("sky") is None:
        pytest.skip("skypilot is not installed")
    import sky

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "qwen3-tts.env").touch()
    task = sky.Task.from_yaml_config(yaml.safe_load(FILE.read_text()), secrets_overrides=[("HF_TOKEN", "x")])
    assert {json.dumps(r.accelerators) for r in task.resources} >= {'{"L40S": 1}', '{"H100": 1}'}
    assert all(r.use_spot for r in task.resources)
