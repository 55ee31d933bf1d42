"""The worker under the SDK's local server, asked by a real HTTP client."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runpod_handler.worker import TOP, House, LocalServer, gone, lines_of, wait_for

TOKEN = "hf_" + "Zq7" * 12


@pytest.fixture(scope="module")
def server(sdk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """The real checkout: real settings, real job."""
    with LocalServer(sdk, TOP, tmp_path_factory.mktemp("volume")) as running:
        yield running


BAD: list[tuple[Any, str]] = [
    ({"variabels": {}}, "input.variabels is not known"),
    ({"variables": []}, "input.variables must be an object"),
    ({"variables": {"SPEAKER_NAM": "me"}}, "did you mean SPEAKER_NAME?"),
    ({"variables": {"batch_size": 2}}, "did you mean BATCH_SIZE?"),
    ({"variables": {"TEMPRATURE": 1}}, "did you mean TEMPERATURE?"),
    ({"variables": {"FROBNICATE": "yes"}}, "FROBNICATE is not a variable of this job"),
    ({"variables": {"BATCH_SIZE": 0}}, "BATCH_SIZE='0'"),
    ({"variables": {"BATCH_SIZE": "four"}}, "BATCH_SIZE='four'"),
    ({"variables": {"BATCH_SIZE": [4]}}, "input.variables.BATCH_SIZE: must be text"),
    ({"variables": {"BATCH_SIZE": None}}, "input.variables.BATCH_SIZE: must be text"),
    ({"variables": {"TRAIN_MODE": "lorra"}}, "TRAIN_MODE='lorra'"),
    ({"variables": {"PRESET": "norwegian"}}, "PRESET='norwegian' does not exist"),
    ({"variables": {"LR": 1e-5, "LEARNING_RATE": 1e-4}}, "are names of the same variable with different values"),
    ({"variables": {"HF_REPO_ID": "a b/c"}}, "HF_REPO_ID='a b/c'"),
    ({"variables": {"HF_TOKEN": TOKEN}}, "send it as credentials.hf_token"),
    ({"variables": {"HF_TOKEN_FILE": "/work/token"}}, "credentials.hf_token"),
    ({"variables": {"WANDB_API_KEY": TOKEN}}, "send it as credentials.wandb_api_key"),
    ({"variables": {"GITHUB_TOKEN": TOKEN}}, "credentials are hf_token and wandb_api_key"),
    ({"variables": {"ENV_FILE": "/etc/environment"}}, "ENV_FILE cannot be set here"),
    ({"variables": {"CONSOLE_LOG": "/etc/passwd"}}, "CONSOLE_LOG cannot be set here"),
    ({"variables": {"NUM_NODES": 2}}, "a worker is a cluster of one node"),
    ({"variables": {"WORK_DIR": "/etc"}}, "WORK_DIR=/etc: must be inside"),
    ({"variables": {"OUTPUT_DIR": "jobs/../../out"}}, "must be inside"),
    ({"variables": {"TRAIN_JSONL": "/etc/passwd"}}, "TRAIN_JSONL=/etc/passwd: must be inside"),
    ({"variables": {"TEST_TEXTS": "/proc/self/environ"}}, "TEST_TEXTS=/proc/self/environ: must be inside"),
    ({"variables": {"SPEAKER_NAME": "x" * 200_000}}, "input.variables.SPEAKER_NAME: must be at most"),
    ({"variables": {"SPEAKER_NAME": "a\0b"}}, "hold no NUL"),
    ({"stages": {"from": "trian"}}, "'trian' is not a stage"),
    ({"stages": {"from": "train", "until": "fetch"}}, "from train comes after until fetch"),
    ({"stages": {"to": "fetch"}}, "input.stages.to is not known; input.stages takes from, until"),
    ({"name": "../../etc"}, "input.name must match"),
    ({"name": 5}, "input.name must be text"),
    ({"credentials": TOKEN}, "input.credentials must be an object"),
    ({"credentials": {"hf_tokne": TOKEN}}, "input.credentials.hf_tokne is not known"),
    ({"credentials": {"hf_token": f"{TOKEN}\nx"}}, "input.credentials.hf_token: must be"),
    ({"credentials": {TOKEN: "hf_token"}}, "is not known; input.credentials takes hf_token"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("given", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_input_is_one_clear_line_and_nothing_is_started(server: LocalServer, given: Any, words: str) -> None:
    before = set((server.volume / "jobs").iterdir())
    (result,) = server.run(given)
    assert words in result["error"] and "\n" not in result["error"]
    assert result["error"].endswith("(exit code 2)") and result["exit_code"] == 2
    assert TOKEN not in json.dumps(result) + server.log
    assert set((server.volume / "jobs").iterdir()) == before


@pytest.mark.slow
def test_bad_input_that_only_the_job_can_see_is_the_jobs_own_line(server: LocalServer) -> None:
    """Missing data is found by the job's doctor: its line is the result, with the exit code that it ended with."""
    result = server.run({"variables": {"TRAIN_JSONL": "no such.jsonl"}, "name": "missing"})[-1]
    assert "TRAIN_JSONL" in result["error"] and "no such.jsonl" in result["error"]
    assert (result["exit_code"], result["name"]) == (2, "missing")
    assert "error: " in Path(result["log_file"]).read_text(), "the whole log is in the work directory"


@pytest.mark.slow
def test_run_then_status_and_the_same_input_again_does_nothing_twice(server: LocalServer) -> None:
    """The job's real stages: /run and /status; then, with a token besides, the same work is found done."""
    given = {"variables": {"PRESET": "demo", "SEED": 7}, "stages": {"until": "fetch"}}
    number = server.post("run", {"input": given})["id"]
    first = server.post(f"status/{number}")
    assert first["status"] == "COMPLETED"
    result = first["output"][-1]
    assert result["exit_code"] == 0 and result["stages"]["fetch"]["counts"]["train"] > 0
    assert "[fetch] started" in lines_of(first["output"])

    again = server.run({**given, "credentials": {"hf_token": TOKEN}})
    assert again[-1]["work_dir"] == result["work_dir"]
    assert any(line.startswith("[fetch] nothing to do") for line in lines_of(again))
    assert again[-1]["stages"]["fetch"]["finished"] == result["stages"]["fetch"]["finished"]

    other = server.run({**given, "variables": {**given["variables"], "SEED": 8}, "stages": {"until": "doctor"}})
    assert other[-1]["work_dir"] != result["work_dir"], "another input does not touch this work"
    assert server.post("status/unknown")["error"] == "Job ID not found"


@pytest.mark.slow
def test_stream_gives_every_line_once_in_order_and_then_the_result(sdk: Path, house: House) -> None:
    with LocalServer(sdk, house.top, house.volume) as server:
        number = server.post("run", {"input": {"variables": {"TEST_TEXTS": "flood 3000"}, "name": "n"}})["id"]
        answer = server.post(f"stream/{number}")
    items = [item["output"] for item in answer["stream"]]
    steps = [line.split()[2] for line in lines_of(items) if "step" in line]
    assert steps == [str(n) for n in range(3000)]
    assert items[-1]["exit_code"] == 0
    assert [i for i in items if "log" not in i] == items[-1:]
    log = (house.volume / "jobs" / "n" / "console_log.txt").read_text().splitlines()
    assert lines_of(items) == log, "what is streamed is what the log holds"


@pytest.mark.slow
def test_one_at_a_time_a_second_is_refused_clearly_and_a_third_runs(sdk: Path, house: House) -> None:
    with LocalServer(sdk, house.top, house.volume) as server:
        answers: list[list[dict[str, Any]]] = []
        first = threading.Thread(
            target=lambda: answers.append(server.run({"variables": {"TEST_TEXTS": "wait"}, "name": "first"}))
        )
        first.start()
        pids = wait_for(lambda: _read(server.work("first") / "ready")).split()
        (refused,) = server.run({"variables": {"TEST_TEXTS": "say no"}, "name": "second"})
        assert "runs one at a time" in refused["error"] and refused["exit_code"] == 2
        assert not server.work("second").exists()

        for pid in map(int, pids):  # the job ends by itself, as if it had failed
            os.kill(pid, signal.SIGKILL)
        first.join(60)
        assert answers[0][-1]["exit_code"] == 137
        third = server.run({"variables": {"TEST_TEXTS": "say third"}, "name": "third"})
        assert third[-1]["exit_code"] == 0 and "third" in lines_of(third)


@pytest.mark.slow
def test_two_workers_do_not_share_a_work_directory(sdk: Path, house: House, tmp_path: Path) -> None:
    """The same input at the same time, from one network volume: the second is told, and ruins nothing."""
    given = {"variables": {"TEST_TEXTS": "wait"}, "name": "shared"}
    with LocalServer(sdk, house.top, house.volume) as one:
        thread = threading.Thread(target=lambda: one.run(given))
        thread.start()
        wait_for(lambda: _read(one.work("shared") / "ready"))
        with LocalServer(sdk, house.top, house.volume) as two:
            (result,) = two.run(given)
            assert "another worker is at work in" in result["error"]
        one.terminate()
        thread.join(30)


@pytest.mark.slow
def test_a_worker_that_is_taken_away_stops_its_job_and_says_how_to_go_on(sdk: Path, house: House) -> None:
    with LocalServer(sdk, house.top, house.volume) as server:
        answers: list[list[dict[str, Any]]] = []
        thread = threading.Thread(
            target=lambda: answers.append(server.run({"variables": {"TEST_TEXTS": "wait"}, "name": "n"}))
        )
        thread.start()
        pids = [int(pid) for pid in wait_for(lambda: _read(server.work("n") / "ready")).split()]
        server.terminate()
        thread.join(60)
        result = answers[0][-1]
        assert result["exit_code"] == 143 and "send the same input again" in result["error"]
        assert "[train] last words" in lines_of(answers[0])
        wait_for(lambda: all(gone(pid) for pid in pids))
        assert server.process.wait(30) is not None


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
