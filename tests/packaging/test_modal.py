"""Modal's function around a stand-in for the image's entrypoint: what the job gets, signals, when it is called again.

Modal itself is used where it is installed; else what the script takes from it is stood in for, so that its own names
and options are checked there only.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]
FILE = TOP / "deploy/modal/qwen3_tts_job.py"

HAVE_MODAL = importlib.util.find_spec("modal") is not None

#: Writes down how it was called, and ends as it is told.
ENTRYPOINT = """#!/usr/bin/env bash
trap 'touch "$CALLS-stopped"; exit 143' TERM
printf '%s\\n' "$@" >"$CALLS-arguments"
env >"$CALLS-variables"
cp "$ENV_FILE" "$CALLS-file"
touch "$CALLS"
while [[ -n ${WAITS-} ]]; do sleep 0.02; done
exit "${CODE-0}"
"""


class App:
    """Keeps what a function is to run with."""

    def __init__(self, name: str) -> None:
        self.options: dict[str, Any] = {}

    def function(self, **options: Any) -> Callable[[Any], Any]:
        self.options = options
        return lambda function: SimpleNamespace(local=function, remote=lambda *given: [*given])

    def local_entrypoint(self) -> Callable[[Any], Any]:
        return lambda function: SimpleNamespace(info=SimpleNamespace(raw_f=function))


class Image:
    @staticmethod
    def from_registry(name: str, **options: Any) -> Image:
        image = Image()
        image.name, image.options = name, options  # type: ignore[attr-defined]
        return image

    def entrypoint(self, words: list[str]) -> Image:
        self.words = words
        return self


def stand_in() -> ModuleType:
    module: Any = ModuleType("modal")
    module.App, module.Image = App, Image
    module.Retries = lambda **options: options
    module.Secret = SimpleNamespace(from_name=lambda name, required_keys: (name, required_keys))
    return module


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    if not HAVE_MODAL:
        monkeypatch.setitem(sys.modules, "modal", stand_in())
    entrypoint = tmp_path / "entrypoint.sh"
    entrypoint.write_text(ENTRYPOINT)
    entrypoint.chmod(0o755)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("JOB_IMAGE", "ghcr.io/me/job:1")
    spec = importlib.util.spec_from_file_location("modal_template", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ENTRYPOINT = str(entrypoint)  # type: ignore[attr-defined]
    yield module


def test_the_job_gets_its_variables_and_the_secret_but_not_modals_packages(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/pkg")
    monkeypatch.setenv("MODAL_TASK_ID", "ta-1")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "t" * 30)
    assert script.run.local("SPEAKER_NAME=kari\n", ["run", "--until", "prepare"]) == 0
    call = {what: Path(f"{os.environ['CALLS']}-{what}").read_text() for what in ("arguments", "variables", "file")}
    assert call["arguments"].split() == ["run", "--until", "prepare"] and call["file"] == "SPEAKER_NAME=kari\n"
    variables = dict(line.split("=", 1) for line in call["variables"].splitlines() if "=" in line)
    assert variables["HF_TOKEN"] == "hf_" + "t" * 30
    assert not {"PYTHONPATH", "MODAL_TASK_ID"} & variables.keys()


@pytest.mark.parametrize(
    ("code", "again"),
    [(0, False), (1, True), (2, False), (3, False), (4, False), (5, True), (6, False), (137, True), (143, True)],
)
def test_an_exception_asks_for_another_try_where_it_may_help(
    script: Any, monkeypatch: pytest.MonkeyPatch, code: int, again: bool
) -> None:
    monkeypatch.setenv("CODE", str(code))
    if again:
        with pytest.raises(RuntimeError, match=str(code)):
            script.run.local("", ["run"])
    else:
        assert script.run.local("", ["run"]) == code


def test_modals_interrupt_stops_the_job_and_is_passed_on(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modal then calls the function again with the same input."""
    monkeypatch.setenv("WAITS", "1")
    calls = Path(os.environ["CALLS"])

    def interrupt() -> None:
        while not calls.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        script.run.local("", ["run"])
    assert Path(f"{calls}-stopped").exists()


def test_the_function_is_asked_for_with_time_a_gpu_and_tries(script: Any) -> None:
    if HAVE_MODAL:
        pytest.skip("modal itself is installed, and has taken the options")
    options = script.app.options
    assert options["timeout"] == 24 * 3600 and options["gpu"] == "L40S" and options["retries"]["max_retries"] == 5
    assert options["secrets"] == [("huggingface", ["HF_TOKEN"])]
    assert options["image"].name == "ghcr.io/me/job:1"
    assert options["image"].words == [], "its own entrypoint would take Modal's process for a command of the job"


def test_the_run_is_started_with_the_users_file(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if HAVE_MODAL:
        pytest.skip("modal itself is installed, and would ask its servers")
    file = tmp_path / "kari.env"
    file.write_text("SPEAKER_NAME=kari\n")
    monkeypatch.setenv("JOB_ENV", str(file))
    with pytest.raises(SystemExit) as ended:
        script.main.info.raw_f("run --until prepare")
    assert ended.value.code == ["SPEAKER_NAME=kari\n", ["run", "--until", "prepare"]]
