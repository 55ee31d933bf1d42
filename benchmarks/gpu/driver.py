"""Running the cases one after the other, each within its time, in processes of their own; without torch itself."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

#: Seconds for a process to import torch and find the GPU.
STARTING = 180.0
#: Seconds below which no case is begun.
WORTH_BEGINNING = 5.0


class Worker:
    """The process that runs cases (`gpu.worker`).

    Args:
        command: that starts it.
        log: where everything goes that cases print.

    Attributes:
        about: what it said when it was ready.
    """

    def __init__(self, command: Sequence[str], log: IO[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            about = self.event(STARTING)
        except TimeoutError:
            about = None
        if about is None or about["event"] != "ready":
            code = self.end()
            raise RuntimeError(f"the process for the cases did not start ({_meaning(code)}); see the log")
        self.about = about

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def ask(self, name: str, seconds: float) -> None:
        """Begin a case."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, as the next event says
            self._process.stdin.write(json.dumps({"name": name, "seconds": seconds}) + "\n")
            self._process.stdin.flush()

    def event(self, seconds: float) -> dict[str, Any] | None:
        """The next event; None when the process has ended.

        Raises:
            TimeoutError: there is none in so many seconds.
        """
        try:
            return self._events.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise TimeoutError from None

    def end(self) -> int:
        """End it and all that it started; returns its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()


class Check:
    """All cases within a time.

    Args:
        command: that starts a worker.
        log: see `Worker`.
        seconds: for all of it.
        say: is given every line of JSON as it is found.
    """

    def __init__(
        self, command: Sequence[str], log: IO[str], seconds: float, say: Callable[[dict[str, Any]], None]
    ) -> None:
        self._command, self._log, self._say = command, log, say
        self._until = time.monotonic() + seconds
        self._worker: Worker | None = None
        self.lines: list[dict[str, Any]] = []
        self.about: dict[str, Any] = {}

    def run(self, only: str) -> None:
        """Do all cases whose names match the pattern."""
        try:
            self.about = self._ready().about
            for case in self.about["cases"]:
                if re.search(only, case["name"]):
                    self._do(case)
        finally:
            self._drop()

    def _ready(self) -> Worker:
        if self._worker is None:
            self._worker = Worker(self._command, self._log)
        return self._worker

    def _drop(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _do(self, case: dict[str, Any]) -> None:
        name = case["name"]
        if case["gpus"] > self.about["gpus"]:
            wanted = "a GPU" if case["gpus"] == 1 else f"{case['gpus']} GPUs"
            self._add(name, "not done", f"takes {wanted}, and there {_are(self.about['gpus'])}", 0.0)
            return
        if case["alone"]:
            self._drop()
        if self._until - time.monotonic() < WORTH_BEGINNING:
            self._add(name, "not done", "no time was left", 0.0)
            return
        try:
            worker = self._ready()
        except RuntimeError as error:
            self._add(name, "failed", str(error), 0.0)
            return
        left = self._until - time.monotonic()
        self._follow(worker, name, case["limit"], left)
        if case["alone"]:
            self._drop()

    def _follow(self, worker: Worker, name: str, limit: float, left: float) -> None:
        """Add what a case finds, until it ends or has to be ended."""
        seconds = min(limit, left)
        start = since = time.monotonic()
        found = 0
        worker.ask(name, seconds)
        while True:
            try:
                event = worker.event(start + seconds - time.monotonic())
            except TimeoutError:
                self._drop()
                if left <= limit:
                    self._add(name, "not done", f"no time was left after {seconds:.0f} s of it", seconds)
                else:
                    self._add(name, "failed", f"took longer than {limit:.0f} s and was ended", seconds)
                return
            now = time.monotonic()
            if event is None:
                code = worker.end()
                self._drop()
                self._add(name, "failed", f"its process ended: {_meaning(code)}", now - since)
                return
            if event["event"] == "end":
                if event["error"] or not found:
                    self._add(name, "failed", event["error"] or "it found nothing", now - since)
                if event["leaves"]:  # the case has left the GPU in no good state
                    self._drop()
                return
            found += 1
            result = "not done" if event["undone"] else "failed" if event["wrong"] else "passed"
            reason = event["undone"] or "; ".join(event["wrong"])
            self._add(event["case"], result, reason, now - since, event["figures"])
            since = now

    def _add(self, case: str, result: str, reason: str, seconds: float, figures: dict[str, Any] | None = None) -> None:
        line = {"case": case, "result": result, "reason": reason, "seconds": round(seconds, 2)}
        line |= {"device": self.about["device"], **(figures or {})}
        self.lines.append(line)
        self._say(line)


def _are(gpus: int) -> str:
    return {0: "is none", 1: "is one"}.get(gpus, f"are {gpus}")


def _meaning(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def command_of(script: Path, work: Path, device: str, cases: Path | None) -> list[str]:
    """What starts a worker."""
    command = [sys.executable, str(script), "--worker", "--work", str(work), "--device", device]
    return command + (["--cases", str(cases)] if cases else [])
