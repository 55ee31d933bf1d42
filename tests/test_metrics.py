"""What Prometheus gets at METRICS_PORT, that the Grafana board asks for nothing else, and the log as JSON."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from job import notify, prepare
from job.config import settings as variables
from job.config.settings import Settings
from job.core import console, errors, files
from job.metrics import Metrics
from tests.support.commands import run_job

BOARD = Path(__file__).resolve().parents[1] / "deploy/grafana/qwen3-tts-job.json"
SAMPLE = re.compile(r'(qwen3_tts_\w+)(?:\{((?:\w+="[^"]*",?)+)\})? (-?[\d.e+-]+)')


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def running(tmp_path: Path) -> Settings:
    """A run in the middle of training."""
    settings = variables.load({"PRESET": "demo", "WORK_DIR": str(tmp_path), "METRICS_PORT": str(free_port())})
    paths = settings.paths
    files.write_json(paths.prepared / "summary.json", {"splits": {"train": {"rows": 90}, "validation": {"rows": 5}}})
    counts = prepare.run(settings.model_copy(update={"data_mode": "none"}))  # as `prepare` names them
    files.write_json(paths.state / "prepare.json", {"seconds": 12.5, "counts": counts})
    files.write_jsonl(paths.rejected, [{"row": 1}, {"row": 2}])
    line = {"step": 40, "epoch": 2, "loss": 3.5, "talker_loss": 3.0, "sub_talker_loss": 1.5, "learning_rate": 1e-05}
    lines = [{**line, "step": 30}, {**line, "grad_norm": 0.5, "frames_per_second": 2500.0, "timestamp": "x"}]
    files.write_jsonl(paths.training_log, lines)
    with open(paths.training_log, "a") as log:
        log.write('{"step": 50, "lo')  # being written
    files.write_jsonl(paths.validation_log, [{"step": 40, "loss": 3.75, "talker_loss": 3.25}])
    return settings


def asked(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return str(answer.read().decode())


def test_prometheus_gets_the_figures_of_the_last_whole_line(running: Settings) -> None:
    with Metrics(running) as metrics:
        metrics.stage = "train"
        page = asked(metrics.port)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            asked(metrics.port, "/")
    found = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            whole = SAMPLE.fullmatch(line)
            assert whole, line
            found[whole[1], whole[2]] = float(whole[3])
    assert found["qwen3_tts_train_step", None] == 40
    assert found["qwen3_tts_train_loss", None] == 3.5
    assert found["qwen3_tts_train_learning_rate", None] == 1e-05
    assert found["qwen3_tts_train_frames_per_second", None] == 2500
    assert found["qwen3_tts_validation_loss", None] == 3.75
    assert found["qwen3_tts_rejected_rows", None] == 2
    assert found["qwen3_tts_rows", 'split="train"'] == 90
    assert found["qwen3_tts_stage_seconds", 'stage="prepare"'] == 12.5
    assert {labels for (name, labels), value in found.items() if name == "qwen3_tts_stage" and value} == {
        'stage="train"'
    }
    types = re.findall(r"^# TYPE (\w+) gauge$", page, re.MULTILINE)
    assert len(types) == len(set(types)) and {name for name, _ in found} == set(types)


def test_the_board_asks_only_for_what_there_is(running: Settings) -> None:
    """Every name in its queries is on the page (GPU memory only where there is a GPU), and each is shown somewhere."""
    board = json.loads(BOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [one["query"] for one in board["templating"]["list"]]
    wanted = {name for query in queries for name in re.findall(r"qwen3_tts_\w+", query)}
    there = set(re.findall(r"^# TYPE (\w+) gauge$", Metrics(running).page(), re.MULTILINE))
    assert wanted == there | {"qwen3_tts_gpu_memory_bytes"}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_without_a_port_nothing_listens(tmp_path: Path) -> None:
    with Metrics(variables.load({"WORK_DIR": str(tmp_path)})) as metrics, pytest.raises(AssertionError):
        assert metrics.port


def test_a_taken_port_is_bad_input(running: Settings) -> None:
    with Metrics(running), pytest.raises(errors.BadInput, match=r"METRICS_PORT=\d+: Address already in use"):
        Metrics(running).__enter__()


def test_every_line_of_the_log_can_be_json(capsys: Any, tmp_path: Path) -> None:
    """An object a line on both streams, the error with its exit code; the message about the end finds it."""
    data = {"LOG_FORMAT": "json", "WORK_DIR": tmp_path / "work", "TRAIN_JSONL": tmp_path / "gone.jsonl"}
    result = run_job(capsys, ["doctor"], {**data, "INIT_MODEL_PATH": "demo", "CONSOLE_LOG": tmp_path / "log"})
    assert result.code == errors.BAD_INPUT
    lines = [json.loads(line) for line in (result.out + result.err).splitlines()]
    assert {"time", "level", "stage", "message"} <= set.intersection(*(set(line) for line in lines))
    assert lines[0]["stage"] == "doctor" and lines[0]["level"] == "info" and lines[0]["message"] == "started"
    assert lines[-1]["level"] == "error" and lines[-1]["exit_code"] == 2 and "gone.jsonl" in lines[-1]["message"]
    (tmp_path / "log").write_text(result.out + result.err)
    assert notify._reason(tmp_path / "log") == [f"error: {lines[-1]['message']}"]


def test_settings_that_are_refused_are_refused_as_json_too(capsys: Any) -> None:
    result = run_job(capsys, ["doctor"], {"LOG_FORMAT": "json", "MAX_STEPS": "x"})
    assert json.loads(result.err)["message"].startswith("MAX_STEPS='x'")
    variables.load({})
    assert console.line("info", "run", "text again") == "[run] text again"
