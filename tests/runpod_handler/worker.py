"""The worker as a process: under the SDK's local server, or under a platform that speaks RunPod's protocol."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
import requests

TOP = Path(__file__).resolve().parents[2]
RUNPOD = TOP / "runpod"
T = TypeVar("T")

#: Stands in for the job, in a copy of the checkout: does what the text in TEST_TEXTS says.
WORK = """
import os, signal, subprocess, sys, time
from pathlib import Path

from job.config import settings as variables
from job.core.errors import BadInput

command, *rest = sys.argv[1:]
try:
    settings = variables.load()
except BadInput as error:
    sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
what, _, more = (settings.test_texts or "").partition(" ")
here = settings.paths.work
here.mkdir(parents=True, exist_ok=True)
print(f"[train] {what} {rest}", flush=True)
if what == "wait":
    stray = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    def stop(number, frame):
        print("[train] last words", flush=True); sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    (here / "ready").write_text(f"{os.getpid()} {stray.pid}"); time.sleep(600)
if what == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    (here / "ready").write_text(str(os.getpid())); time.sleep(600)
if what == "say":
    print(more, flush=True)
if what == "flood":
    for number in range(int(more)):
        print(f"[train] step {number} of a long story " + "x" * 80)
    (here / "flooded").write_text(str(time.time()))
if what == "blab":
    token = settings.token
    print("the token is", token, "and the key is in", os.environ.get("NETRC"), flush=True)
    print("in the middle of" + "x" * 9000 + token + "a line", flush=True)
    print(Path(os.environ["NETRC"]).read_text(), flush=True)
    (here / "ready").write_text("ready"); time.sleep(float(more)); print("error: no luck with", token, file=sys.stderr)
    sys.exit(4)
if what == "environment":
    print("\\n".join(sorted(os.environ)), flush=True)
"""


class House:
    """A copy of the checkout in a path with spaces, where only `job/__main__.py` is another."""

    def __init__(self, directory: Path) -> None:
        self.top = directory / "a check out"
        self.top.mkdir()
        shutil.copy2(TOP / "entrypoint.sh", self.top)
        shutil.copytree(TOP / "job", self.top / "job", ignore=shutil.ignore_patterns("__pycache__", "clips"))
        shutil.copytree(RUNPOD, self.top / "runpod", ignore=shutil.ignore_patterns("__pycache__", ".venv"))
        (self.top / "job" / "__main__.py").write_text(WORK)
        self.volume = directory / "a volume"
        self.volume.mkdir()


def environment(volume: Path, **more: str) -> dict[str, str]:
    """What a worker is started with: nothing of the tests' own but the way to Python."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # python3 of the stand-in: the tests' own
        "HOME": str(volume),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "JOB_VOLUME": str(volume),
        "JOB_GRACE_SECONDS": "6",
        **more,
    }


def wait_for(what: Callable[[], T | None], seconds: float = 60) -> T:
    """Call `what` until it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s in vain")


def gone(pid: int) -> bool:
    """Whether a process has ended (one that nobody has reaped yet counts)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Worker:
    """The handler as a process, for the time of a `with` block."""

    def __init__(self, python: Path, top: Path, volume: Path, arguments: list[str], variables: dict[str, str]) -> None:
        self.volume = volume
        self.output = volume.with_name(f"{volume.name}.worker.log")
        self.command = [str(python), str(top / "runpod" / "handler.py"), *arguments]
        self._environment = environment(volume, **variables)

    def __enter__(self) -> Self:
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                self.command, env=self._environment, stdout=output, stderr=subprocess.STDOUT, cwd=self.volume
            )
        return self

    def __exit__(self, *_: object) -> None:
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(15)
        for process in family:
            if process.is_running():
                process.kill()

    @property
    def log(self) -> str:
        return self.output.read_text(errors="replace")

    def work(self, name: str) -> Path:
        return self.volume / "jobs" / name

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


class LocalServer(Worker):
    """The handler under `--rp_serve_api`, the SDK's server for development."""

    def __init__(self, python: Path, top: Path, volume: Path, **variables: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        arguments = ["--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", self.url.rsplit(":")[-1]]
        super().__init__(python, top, volume, arguments, variables)

    def __enter__(self) -> Self:
        super().__enter__()

        def answers() -> bool:
            assert self.process.poll() is None, self.log
            try:
                return requests.get(f"{self.url}/openapi.json", timeout=2).ok
            except requests.ConnectionError:
                return False

        try:
            wait_for(answers)
        except BaseException:
            self.__exit__()
            raise
        return self

    def post(self, path: str, body: Any = None, timeout: float = 120) -> dict[str, Any]:
        response = requests.post(f"{self.url}/{path}", json=body, timeout=timeout)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def run(self, given: Any, timeout: float = 120) -> list[dict[str, Any]]:
        """The items of /runsync."""
        answer = self.post("runsync", {"input": given}, timeout)
        assert answer["status"] == "COMPLETED", answer
        items: list[dict[str, Any]] = answer["output"]
        return items


def lines_of(items: list[dict[str, Any]]) -> list[str]:
    """The log that was streamed."""
    return [line for item in items for line in item.get("log", ())]
