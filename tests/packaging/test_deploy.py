"""compose.yaml, the systemd units and the crontab: what they promise, and that their own tools accept them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from job.config.settings import load, variables
from job.core import errors

TOP = Path(__file__).resolve().parents[2]
UNITS = ("qwen3-tts-job.service", "qwen3-tts-job.timer")


@pytest.fixture
def compose() -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((TOP / "compose.yaml").read_text())
    return value


@pytest.fixture
def service(compose: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = compose["services"]["job"]
    return value


def unit(name: str) -> RawConfigParser:
    parser = RawConfigParser(strict=False, comment_prefixes=("#",), delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(TOP / "deploy/systemd" / name)
    return parser


def default(value: str) -> str:
    """What compose makes of `${NAME:-default}` where NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def test_compose_confines_the_job(service: dict[str, Any]) -> None:
    """Its own user, no capability, no way to more rights, and nothing to write to but /tmp and the work volume."""
    assert default(service["user"]) == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"]
    assert service["tmpfs"] == ["/tmp:mode=1777"]
    assert "privileged" not in service and "network_mode" not in service and "ports" not in service
    work, recordings = service["volumes"]
    assert default(work) == "work:/work" and recordings["read_only"] is True


def test_compose_reserves_a_gpu(service: dict[str, Any]) -> None:
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"] and default(device["count"]) == "1"


def test_compose_hands_the_token_over_as_a_file(compose: dict[str, Any], service: dict[str, Any]) -> None:
    """In no variable; without one it is an empty file, which the job takes for no token."""
    assert not any("HF_TOKEN" in name and name != "HF_TOKEN_FILE" for name in service["environment"])
    assert service["environment"]["HF_TOKEN_FILE"] == "/run/secrets/hf_token" and service["secrets"] == ["hf_token"]
    assert default(compose["secrets"]["hf_token"]["file"]) == "/dev/null"
    assert load({"HF_TOKEN_FILE": "/dev/null"}).token is None


def test_compose_gives_a_stopped_run_time_and_does_not_repeat_a_refused_one(service: dict[str, Any]) -> None:
    grace = re.fullmatch(r"(\d+)m", service["stop_grace_period"])
    assert grace and 60 * int(grace.group(1)) >= 60
    assert service["restart"] == "no"


def test_own_names_of_compose_are_not_taken_for_misspelled_variables(tmp_path: Path, monkeypatch: Any) -> None:
    """They stand in the same .env as the job's, which refuses names that are one typo from a known one."""
    monkeypatch.chdir(tmp_path)
    own = set(re.findall(r"\$\{(\w+):-", (TOP / "compose.yaml").read_text()))
    assert own.isdisjoint(name for v in variables() for name in (v.name, *v.aliases))
    assert len(own) == 6
    (tmp_path / ".env").write_text("".join(f"{name}=x\n" for name in own) + "SPEAKER_NAME=me\n")
    assert load({}).speaker_name == "me"


def test_docker_compose_accepts_the_file() -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    done = subprocess.run(["docker", "compose", "config", "--quiet"], cwd=TOP, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_service_retries_what_may_be_mended_by_it_and_nothing_else() -> None:
    """The exit codes that mean the same a minute later are those of Kubernetes' failure policy."""
    section = unit(UNITS[0])["Service"]
    final = {errors.BAD_INPUT, errors.DATA_REFUSED, errors.TRAINING_STOPPED, errors.SPEECH_FAILED}
    prevent = section["RestartPreventExitStatus"].split()
    stopped = {130, errors.STOPPED_BY_SIGNAL}  # 130 is compose's own
    assert {int(code) for code in prevent if code.isdigit()} == final | stopped
    assert {"SIGTERM", "SIGKILL"} <= set(prevent), "20 hours are over: not again before the next night"
    assert int(section["SuccessExitStatus"]) == errors.STOPPED_BY_SIGNAL
    assert section["Restart"] == "on-failure" and section["Type"] == "oneshot"
    job = yaml.safe_load((TOP / "k8s/base/job.yaml").read_text())
    rules = job["spec"]["podFailurePolicy"]["rules"]
    fails = [r["onExitCodes"]["values"] for r in rules if r["action"] == "FailJob" and "onExitCodes" in r]
    assert {code for values in fails for code in values} == final


def test_stopping_the_service_stops_the_container() -> None:
    """A signal to the client alone need not reach it, and no signal of systemd's does: it is Docker's child."""
    lines = (TOP / "deploy/systemd" / UNITS[0]).read_text().splitlines()
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    name = re.search(r" --name (\S+) job$", start)
    assert name and [line for line in lines if line.startswith("ExecStopPost=")] == [
        f"ExecStopPost=-/usr/bin/docker {what} {name[1]}" for what in ("stop", "rm --force")
    ]
    assert "KillMode=mixed" not in lines, "the client is two processes, and only the second one passes signals on"
    compose = yaml.safe_load((TOP / "compose.yaml").read_text())["services"]["job"]
    assert compose["stop_grace_period"] == "2m" and "TimeoutStopSec=150" in lines, "docker stop may take its time"


def test_timer_starts_the_service_every_night() -> None:
    timer = unit(UNITS[1])["Timer"]
    assert timer["OnCalendar"] == "*-*-* 02:00:00" and timer["Persistent"] == "true"
    assert "Unit" not in timer, "it starts the service of its own name"


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """systemd's own checker, with a docker that is there."""
    checker = shutil.which("systemd-analyze")
    if not checker:
        pytest.skip("systemd is not installed")
    for name in UNITS:
        text = (TOP / "deploy/systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/bin/docker", sys.executable).replace("/srv/", f"{tmp_path}/"))
    (tmp_path / "qwen3-tts-job").mkdir()
    done = subprocess.run(
        [checker, "verify", *(str(tmp_path / name) for name in UNITS)], capture_output=True, text=True, timeout=60
    )
    said = [line for line in done.stderr.splitlines() if "qwen3-tts-job" in line]
    assert not said, done.stderr


def crontab() -> tuple[list[str], str]:
    """The five fields of the time, and the command."""
    lines = (TOP / "deploy/cron/crontab").read_text().splitlines()
    (line,) = [line for line in lines if re.match(r"[\d*]", line)]
    *times, command = line.split(maxsplit=5)
    return times, command


def test_crontab_line_runs_what_the_timer_runs() -> None:
    times, command = crontab()
    assert times == ["0", "2", "*", "*", "*"] and "%" not in command, "cron takes % for a new line"
    start = re.sub(r" --name \S+", "", unit(UNITS[0])["Service"]["ExecStart"])
    assert start.removeprefix("/usr/bin/") in command


def test_crontab_line_leaves_a_run_that_is_going_alone(tmp_path: Path) -> None:
    """And its log. The line itself, in a directory of the test's, with a docker that takes its time."""
    if not shutil.which("flock"):
        pytest.skip("flock is not installed")
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\necho "$@" >>calls\necho started\nwhile [ ! -e go ]; do sleep 0.05; done\n')
    docker.chmod(0o755)
    command = crontab()[1].replace("/srv/qwen3-tts-job", str(tmp_path))
    environment = {"PATH": f"{docker.parent}:{os.environ['PATH']}"}
    first = subprocess.Popen(["sh", "-c", command], env=environment)
    calls = tmp_path / "calls"
    while not calls.exists():
        assert first.poll() is None
    while not (tmp_path / "nightly.log").read_text():
        assert first.poll() is None
    second = subprocess.run(["sh", "-c", command], env=environment, timeout=30)
    assert (tmp_path / "nightly.log").read_text() == "started\n", "the second night has not emptied it"
    (tmp_path / "go").touch()
    assert second.returncode != 0 and first.wait(30) == 0
    assert calls.read_text().splitlines() == ["compose run --rm -T job"]
