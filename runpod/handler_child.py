"""The job as a process of its own: started with its credentials in files, read line by line, stopped as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import tempfile
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from handler_request import Credentials

from job.core import files
from job.core.redact import MASK, redact


def _grace(given: str) -> float:
    """JOB_GRACE_SECONDS, or 30.

    Raises:
        SystemExit: it is no number of seconds.
    """
    try:
        seconds = float(given or 30)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise SystemExit(f"JOB_GRACE_SECONDS={given}: must be a number of seconds, such as 30")
    return seconds


#: Seconds between a SIGTERM and a SIGKILL: what a training step and an interrupted write take.
GRACE = _grace(os.environ.get("JOB_GRACE_SECONDS", ""))
#: Seconds to wait for the last lines of a job that has ended.
LAST_WORDS = 15.0
#: Characters of log that a result holds. RunPod takes 10 MB; the whole log is a file in the work directory.
MOST_STREAMED = 4_000_000
#: A longer line is cut: nobody writes one on purpose.
LONGEST_LINE = 4_000


def private_directory() -> Path:
    """A new directory that only this user can enter: in memory where there is such a file system."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="job-", dir=memory if os.access(memory, os.W_OK) else None))


def write_private(path: Path, text: str) -> Path:
    """Create a file that nobody else could read at any moment (which a rename of a finished file cannot promise)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
    return path


def hand_over(secrets: Credentials, directory: Path, wandb_url: str = "") -> dict[str, str]:
    """Write the credentials into `directory`. Returns the variables that tell the job where they are."""
    told = {}
    if secrets.hf_token:
        told["HF_TOKEN_FILE"] = str(write_private(directory / "hf_token", secrets.hf_token.get_secret_value()))
    if secrets.wandb_api_key:
        host = urlsplit(wandb_url).hostname or "api.wandb.ai"
        entry = f"machine {host} login user password {secrets.wandb_api_key.get_secret_value()}\n"
        told["NETRC"] = str(write_private(directory / "netrc", entry))
    return told


class Child:
    """A running job.

    Its lines are read all the time, whether or not somebody takes them: a job must never wait for the network.
    """

    def __init__(self, process: asyncio.subprocess.Process, secrets: list[str]) -> None:
        """`secrets` are taken out of every line."""
        self.process = process
        self.tail: deque[str] = deque(maxlen=50)
        self._secrets = secrets
        self._waiting: list[str] = []
        self._streamed = 0
        self._news = asyncio.Event()
        self._heard = asyncio.get_running_loop().time()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, command: list[str], environment: dict[str, str], cwd: Path, secrets: list[str]) -> Child:
        """Start `command` in a session of its own, stdout and stderr in one stream.

        Raises:
            OSError: it cannot be started.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        return cls(process, secrets)

    @property
    def exit_code(self) -> int | None:
        """As a shell gives it: 128 and the signal's number for a process that a signal ended."""
        code = self.process.returncode
        return 128 - code if code is not None and code < 0 else code

    async def lines(self, seconds: float) -> list[str] | None:
        """The lines since the last call, at most `seconds` old; None when the job has ended and all are taken."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)
        if self._news.is_set() and not self._reader.done():
            await asyncio.sleep(seconds)  # lines come in bursts: one message for many
        self._news.clear()
        taken, self._waiting = self._waiting, []
        if taken:
            return taken
        silent = asyncio.get_running_loop().time() - self._heard
        if self.exit_code is not None and not self._reader.done() and silent > LAST_WORDS:
            self._reader.cancel()  # a stray process holds the pipe open
            return None
        return None if self._reader.done() else []

    async def end(self) -> int:
        """Wait for a job that has said its last words. Returns its exit code."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), LAST_WORDS)
        await self.stop()
        return self.exit_code if self.exit_code is not None else 128 + signal.SIGKILL

    async def stop(self) -> None:
        """SIGTERM to the process group, SIGKILL to whatever is left of the whole session after `GRACE` seconds.

        Does nothing to a job that has ended, except that strays of it are killed.
        """
        everyone = self._family()
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            for _ in range(int(GRACE * 10)):
                if self.exit_code is not None:
                    break
                await asyncio.sleep(0.1)
        for stray in {*everyone, *self._family()}:
            with contextlib.suppress(psutil.Error):
                stray.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wait({self._reader}), LAST_WORDS)
        self._reader.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), LAST_WORDS)

    def _family(self) -> set[psutil.Process]:
        """The job's process, its descendants, and what else is left in its session."""
        found: set[psutil.Process] = set()
        with contextlib.suppress(psutil.Error):
            if self.exit_code is None:
                parent = psutil.Process(self.process.pid)
                found |= {parent, *parent.children(recursive=True)}
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                if os.getsid(process.pid) == self.process.pid:
                    found.add(process)
        return found

    async def _read(self) -> None:
        assert self.process.stdout is not None
        rest, endless = b"", False
        try:
            while chunk := await self.process.stdout.read(1 << 16):
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    self._take(b"(a line that is too long)" if endless else line)
                    endless = False
                if len(rest) > 1 << 20:  # never cut: half a token would not be recognised
                    rest, endless = b"", True
            if rest:
                self._take(rest)
        finally:
            self._news.set()

    def _take(self, raw: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        line = redact(raw.decode("utf-8", "replace").rstrip("\r"), self._secrets)[:LONGEST_LINE]
        self.tail.append(line)
        if self._streamed > MOST_STREAMED:
            return
        self._streamed += len(line)
        if self._streamed > MOST_STREAMED:
            line = "(the log goes on in the work directory; it is too long to be sent)"
        self._waiting.append(line)
        self._news.set()


def scrub(log: Path, secrets: list[str]) -> None:
    """Take the credentials out of a log that a library wrote them into. Anything else in it is left as it is."""
    with contextlib.suppress(OSError):  # there is no log yet, or no room
        data = log.read_bytes()
        if any(secret.encode() in data for secret in secrets):
            for secret in secrets:
                data = data.replace(secret.encode(), MASK.encode())
            files.write_with(log, lambda temporary: temporary.write_bytes(data))
