"""A Pod: one run, after which it stops itself. RunPod's API is a local server; the SDK that asks it is real."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.runpod_handler.worker import House, environment, gone, wait_for

KEY = "rpa_" + "P" * 40


class Api:
    """RunPod's GraphQL API: remembers who asked for what."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.refusals = 0
        self.delay = 0.0


@pytest.fixture
def api() -> Iterator[tuple[Api, str]]:
    seen = Api()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["query"]
            seen.asked.append((self.headers["Authorization"], " ".join(query.split())))
            time.sleep(seen.delay)
            answer: Any = {"data": {"podStop": {"id": "pod-1"}, "podTerminate": None}}
            if seen.refusals:
                seen.refusals -= 1
                answer = {"errors": [{"message": f"try later, {KEY}"}]}
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield seen, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Pod:
    """`pod.py` as a Pod starts it."""

    def __init__(self, sdk: Path, house: House, url: str, what: str, **more: str) -> None:
        self.work = house.volume / "work"
        self.log = house.volume / "pod.log"
        variables = environment(
            house.volume, RUNPOD_API_BASE_URL=url, RUNPOD_POD_ID="pod-1", RUNPOD_API_KEY=KEY,
            WORK_DIR=str(self.work), TEST_TEXTS=what, **more,
        )  # fmt: skip
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                [sdk, house.top / "runpod" / "pod.py"], env=variables, stdout=output, stderr=subprocess.STDOUT
            )

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.mark.slow
def test_the_pod_is_stopped_once_the_run_has_ended_and_runs_nothing_twice(
    sdk: Path, house: House, api: tuple[Api, str]
) -> None:
    """RunPod would start an ended container again, and bill it: so it asks to be stopped, and waits."""
    seen, url = api
    pod = Pod(sdk, house, url, "environment")
    try:
        wait_for(lambda: seen.asked)
        assert seen.asked == [(f"Bearer {KEY}", 'mutation { podStop(input: { podId: "pod-1" }) { id desiredStatus } }')]
        assert pod.process.poll() is None
    finally:
        code = pod.stop()
    log = pod.log.read_text()
    assert code == 0 and "asked RunPod to stop this Pod" in log
    assert log.count("[train] environment") == 1
    assert "RUNPOD_API_KEY" not in log, "the job has no use for it"
    assert "[train] environment" in (pod.work / "console_log.txt").read_text(), "the log is on the volume"


@pytest.mark.slow
def test_a_failed_run_ends_the_pod_too_and_a_refusal_is_tried_again(
    sdk: Path, house: House, api: tuple[Api, str]
) -> None:
    seen, url = api
    seen.refusals = 1
    pod = Pod(sdk, house, url, "say no", BATCH_SIZE="0", POD_AFTER="terminate")
    try:
        wait_for(lambda: len(seen.asked) == 2)
    finally:
        code = pod.stop()
    assert code == 2 and all("podTerminate" in query for _, query in seen.asked)
    log = pod.log.read_text()
    assert "BATCH_SIZE" in log and "try later" in log and KEY not in log


@pytest.mark.slow
def test_a_pod_that_is_stopped_stops_its_job(sdk: Path, house: House, api: tuple[Api, str]) -> None:
    seen, url = api
    pod = Pod(sdk, house, url, "wait")
    ready = pod.work / "ready"
    pids = [int(pid) for pid in wait_for(lambda: ready.read_text() if ready.exists() else "").split()]
    assert pod.stop() == 143
    wait_for(lambda: all(gone(pid) for pid in pids))
    assert not seen.asked


@pytest.mark.slow
def test_what_to_do_afterwards_is_checked_before_anything_is_paid_for(
    sdk: Path, house: House, api: tuple[Api, str]
) -> None:
    pod = Pod(sdk, house, api[1], "say no", POD_AFTER="explode")
    assert pod.process.wait(30) == 2
    assert pod.log.read_text() == "error: POD_AFTER=explode: must be one of stop, terminate, keep\n"


@pytest.mark.slow
@pytest.mark.parametrize("refusals", [0, 100])
def test_a_signal_while_runpod_is_being_asked_ends_the_container(
    sdk: Path, house: House, api: tuple[Api, str], refusals: int
) -> None:
    """RunPod may take the container away before its API has answered: a signal then must not be lost."""
    seen, url = api
    seen.delay, seen.refusals = 2.0, refusals
    pod = Pod(sdk, house, url, "environment")
    try:
        wait_for(lambda: seen.asked)
    finally:
        code = pod.stop()
    assert code == 0 and len(seen.asked) == 1
    assert ("asked RunPod to stop this Pod" in pod.log.read_text()) == (not refusals)
