"""The RunPod serverless worker: one request is one run of the job, in a process of its own.

    python runpod/handler.py                                  on RunPod; elsewhere, runs ./test_input.json
    python runpod/handler.py --rp_serve_api --rp_api_port N   a local server with the same requests

The request is checked before anything is started (`handler_request.py`); the job's lines are streamed as they come
(`handler_child.py`); the last item is the result (`handler_results.py`). Credentials go to the job in files of a
private directory that is removed when the job ends: they are in no environment, command line, log or result.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

TOP = Path(__file__).resolve().parents[1]
sys.path.append(str(TOP))  # the job's package; last, so that this folder's name does not hide the SDK
os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")  # the SDK's own default repeats every streamed line, and the input

import handler_child as child  # noqa: E402
import handler_results as results  # noqa: E402
from handler_request import Request, child_environment, parse, plain  # noqa: E402

import runpod  # noqa: E402
from job.core.errors import BadInput, JobError  # noqa: E402
from job.core.redact import one_line  # noqa: E402

#: Seconds between two messages of log lines, and between two progress updates of one stage.
EVERY, PROGRESS_EVERY = 1.0, 10.0
#: Where work and weights are kept: the network volume, or else the container's own disk.
VOLUMES = (Path("/runpod-volume"), Path("/work"))


def volume() -> Path:
    """The first of `VOLUMES` that can be written to; JOB_VOLUME overrides it."""
    given = os.environ.get("JOB_VOLUME")
    candidates = [Path(given)] if given else [path for path in VOLUMES if path.is_dir()]
    for path in candidates:
        with contextlib.suppress(OSError):
            (path / "jobs").mkdir(parents=True, exist_ok=True)
            if os.access(path / "jobs", os.W_OK):
                return path.resolve()
    raise SystemExit(f"none of {', '.join(map(str, candidates or VOLUMES))} can be written to; attach a network volume")


class Worker:
    """Runs one request at a time."""

    def __init__(self, place: Path) -> None:
        """`place` is the volume."""
        self.place = place
        self._platform = Platform()
        self._busy: str | None = None
        self._free = asyncio.Event()
        self._free.set()
        self._ending = False
        self._shutdown = False

    async def handle(self, job: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yield `{"log": [lines]}` as they come, then one result: see `handler_results`.

        A cancelled request stops the job before the next one can begin.
        """
        number = str(job.get("id", "local"))
        run: Run | None = None
        try:
            await self._claim(number)
        except BadInput as error:
            yield results.failure(str(error), error.exit_code)
            return
        try:
            run = Run(self.place)
            with self._passing_on_signals():
                await run.start(job.get("input"))
                told: tuple[str, float] = ("", 0.0)
                while (lines := await run.lines(EVERY)) is not None:
                    if self._shutdown:
                        await run.stop()
                    told = self._progress(number, lines, told)
                    if lines:
                        yield {"log": lines}
                result = await run.result()
            await self._platform.settle()
        except JobError as error:
            result = results.failure(str(error), error.exit_code, run.request if run else None)
        except Exception as error:
            words = one_line(error, run.secrets if run else [])
            result = results.failure(f"{type(error).__name__}: {words}", 1, run.request if run else None)
        finally:
            self._ending = True
            # Cancelling this again must not cut short the stopping of the job.
            await asyncio.shield(asyncio.ensure_future(self._release(run)))
        yield results.clean(result, run.secrets if run else [])

    async def _claim(self, number: str) -> None:
        if self._busy is not None and self._ending:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._free.wait(), child.GRACE + 2 * child.LAST_WORDS)
        if self._busy is not None:
            raise BadInput(
                f"this worker is running request {self._busy}, and runs one at a time; send this one again when that "
                "has ended, or allow the endpoint more workers"
            )
        self._busy, self._ending = number, False
        self._free.clear()

    async def _release(self, run: Run | None) -> None:
        try:
            if run is not None:
                await run.close()
        finally:
            self._busy, self._ending = None, False
            self._free.set()

    def _progress(self, number: str, lines: list[str], told: tuple[str, float]) -> tuple[str, float]:
        """Announce a new stage at once, and the same stage now and then."""
        where = results.progress_of(lines)
        now = time.monotonic()
        if where is None or (where["stage"] == told[0] and now - told[1] < PROGRESS_EVERY):
            return told
        self._platform.announce(number, where)
        return where["stage"], now

    @contextlib.contextmanager
    def _passing_on_signals(self) -> Iterator[None]:
        """While a job runs, SIGTERM (the worker is taken away) stops it, and then does what it did before."""
        previous = signal.getsignal(signal.SIGTERM)

        def stop(signum: int, frame: FrameType | None) -> None:
            self._shutdown = True
            if callable(previous):
                previous(signum, frame)

        try:
            signal.signal(signal.SIGTERM, stop)
        except ValueError:  # not the main thread: whoever owns that must end this
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)


class Run:
    """One request, from its check to its result."""

    def __init__(self, place: Path) -> None:
        """`place` is the volume."""
        self.place = place
        self.request: Request | None = None
        self.secrets: list[str] = []
        self._private = child.private_directory()
        self._child: child.Child | None = None
        self._lock: int | None = None

    async def start(self, given: Any) -> None:
        """Check the input and start the job.

        Raises:
            BadInput: the input is wrong, or another worker is at the same work.
        """
        empty = child.write_private(self._private / "empty.env", "")
        request = self.request = parse(given, os.environ, self.place, empty)
        self.secrets = plain(request.secrets)
        work = request.settings.paths.work
        work.mkdir(parents=True, exist_ok=True)
        self._lock = lock(work / ".lock")
        environment = child_environment(request, os.environ, self.place)
        environment |= child.hand_over(request.secrets, self._private, environment.get("WANDB_BASE_URL", ""))
        command = [str(TOP / "entrypoint.sh"), "run", "--from", request.first, "--until", request.last]
        self._child = await child.Child.start(command, environment, self.place, self.secrets)

    async def lines(self, seconds: float) -> list[str] | None:
        """New lines of the log; None at the end."""
        assert self._child is not None
        return await self._child.lines(seconds)

    async def stop(self) -> None:
        """Stop the job; its last lines can still be taken."""
        if self._child is not None:
            await self._child.stop()

    async def result(self) -> dict[str, Any]:
        """What became of it."""
        assert self._child is not None and self.request is not None
        code = await self._child.end()
        if code == 0:
            return results.success(self.request)
        return results.failure(results.reason(list(self._child.tail), code), code, self.request)

    async def close(self) -> None:
        """Stop the job if it still runs, remove its credentials, let others have its work directory."""
        try:
            await self.stop()
        finally:
            shutil.rmtree(self._private, ignore_errors=True)
            if self.request is not None and self.secrets:
                child.scrub(self.request.log, self.secrets)
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None


def lock(path: Path) -> int:
    """Take the work directory for this worker. Returns the descriptor that holds it.

    Raises:
        BadInput: another worker has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BadInput(f"another worker is at work in {path.parent}; wait for it, or send another name") from None
    except OSError:
        pass  # a network file system without locks
    return descriptor


class Platform:
    """Sends progress to RunPod, through the SDK."""

    def __init__(self) -> None:
        """Without RunPod there is nobody to tell, and the SDK would complain of it."""
        self._there = "RUNPOD_WEBHOOK_POST_OUTPUT" in os.environ
        self._sending: list[threading.Thread] = []

    def announce(self, number: str, where: dict[str, Any]) -> None:
        """Send one update, in a thread that the SDK starts."""
        if self._there:
            before = threading.enumerate()
            runpod.serverless.progress_update({"id": number}, where)
            self._sending = [t for t in self._sending if t.is_alive()]
            self._sending += [t for t in threading.enumerate() if t not in before]

    async def settle(self) -> None:
        """Wait for what is under way: an update that arrives after the result would hide it."""
        for thread in self._sending:
            await asyncio.to_thread(thread.join, 5.0)
        self._sending.clear()


def main() -> None:
    """Start the worker, the SDK's local server, or one local run."""
    worker = Worker(volume())
    print(f"work is kept in {worker.place / 'jobs'}", flush=True)
    streams = "RUNPOD_WEBHOOK_GET_JOB" in os.environ or "--rp_serve_api" in sys.argv

    async def at_once(job: dict[str, Any]) -> dict[str, Any]:
        """The SDK's one local run takes no generators: print the lines, return the result."""
        item: dict[str, Any] = {}
        async for item in worker.handle(job):
            if "log" in item:
                print(*item["log"], sep="\n", flush=True)
        return item

    runpod.serverless.start({"handler": worker.handle if streams else at_once, "return_aggregate_stream": True})


if __name__ == "__main__":
    main()
