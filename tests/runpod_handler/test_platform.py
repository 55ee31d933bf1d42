"""The worker as RunPod runs it: the SDK's own loop, against a platform that speaks RunPod's protocol."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from tests.runpod_handler.platform import API_KEY, Platform, deployed
from tests.runpod_handler.worker import TOP, House, gone, lines_of, wait_for


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.slow
def test_a_job_is_streamed_reported_stage_by_stage_and_ends_with_a_result(sdk: Path, tmp_path: Path) -> None:
    """The real job: lines arrive while it runs, progress names the stage, and no progress comes after the result."""
    volume = tmp_path / "volume"
    volume.mkdir()
    with Platform() as platform, deployed(sdk, TOP, volume, platform):
        platform.give("a", {"variables": {"PRESET": "demo"}, "stages": {"until": "fetch"}})
        body = platform.result("a")
        assert API_KEY in platform.authorizations, "it is the worker that asks"
    result = body["output"][-1]
    assert result["exit_code"] == 0 and result["stages"]["fetch"]["counts"]["train"] > 0
    assert platform.streamed["a"] == body["output"], "what was streamed is also in the status"
    assert "[fetch] started" in lines_of(body["output"])
    assert platform.progress["a"][-1]["stage"] == "fetch"
    assert {"number": 2, "of": 8}.items() <= platform.progress["a"][-1].items()
    assert platform.order["a"][-1] == "result"


@pytest.mark.slow
def test_a_failure_is_a_failed_job_whose_text_says_why_and_with_which_exit_code(sdk: Path, house: House) -> None:
    """RunPod keeps only the text of an error."""
    with Platform() as platform, deployed(sdk, house.top, house.volume, platform):
        platform.give("bad", {"variables": {"BATCH_SIZ": 4}})
        assert platform.result("bad") == {
            "error": "BATCH_SIZ is not a variable of this job; did you mean BATCH_SIZE? Rename it or unset it "
            "(exit code 2)"
        }


@pytest.mark.slow
def test_a_cancelled_job_is_stopped_with_everything_it_started_and_the_next_one_runs(sdk: Path, house: House) -> None:
    with Platform() as platform, deployed(sdk, house.top, house.volume, platform) as worker:
        platform.give("long", {"variables": {"TEST_TEXTS": "wait"}, "name": "long"})
        pids = [int(pid) for pid in wait_for(lambda: text(worker.work("long") / "ready")).split()]
        platform.stop("long")
        platform.give("next", {"variables": {"TEST_TEXTS": "say next"}, "name": "next"})
        assert platform.result("next")["output"][-1]["exit_code"] == 0
        assert all(gone(pid) for pid in pids)
        assert "last words" in text(worker.work("long") / "console_log.txt"), "it was asked before it was killed"
        assert "long" not in platform.results, "RunPod knows already that it was cancelled"


@pytest.mark.slow
def test_a_cancelled_job_that_does_not_listen_is_killed(sdk: Path, house: House) -> None:
    with Platform() as platform, deployed(sdk, house.top, house.volume, platform) as worker:
        platform.give("deaf", {"variables": {"TEST_TEXTS": "stubborn"}, "name": "deaf"})
        pid = int(wait_for(lambda: text(worker.work("deaf") / "ready")))
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        assert len(family) == 2, "one of them has left the session"
        platform.stop("deaf")
        wait_for(lambda: all(gone(one) for one in family), 30)
        platform.give("next", {"variables": {"TEST_TEXTS": "say next"}, "name": "next"})
        assert platform.result("next")["output"][-1]["exit_code"] == 0


@pytest.mark.slow
def test_the_job_never_waits_for_a_slow_platform(sdk: Path, house: House) -> None:
    """Streaming may lag behind; training may not. A very long log is cut in what is sent, not on disk."""
    with Platform(slowness=3) as platform, deployed(sdk, house.top, house.volume, platform) as worker:
        started = time.time()
        platform.give("a", {"variables": {"TEST_TEXTS": "flood 60000"}, "name": "a"})
        finished = float(wait_for(lambda: text(worker.work("a") / "flooded")))
        first = wait_for(lambda: platform.streamed.get("a"))
        assert finished - started < 60 and first  # waiting for what was sent would take minutes
        output = platform.result("a")["output"]
    assert output[-1]["exit_code"] == 0
    sent = lines_of(output)
    assert sum(map(len, sent)) < 5_000_000 and "too long to be sent" in sent[-1]
    assert "step 59999 " in text(worker.work("a") / "console_log.txt")


@pytest.mark.slow
def test_the_job_does_not_get_runpods_keys(sdk: Path, house: House) -> None:
    with Platform() as platform, deployed(sdk, house.top, house.volume, platform, HF_HUB_OFFLINE="1") as worker:
        platform.give("a", {"variables": {"TEST_TEXTS": "environment"}, "name": "a"})
        names = lines_of(platform.result("a")["output"])
        assert not [name for name in names if name.startswith("RUNPOD_")]
        assert "HF_HUB_OFFLINE" in names and "HF_HOME" in names
        assert API_KEY not in worker.log
