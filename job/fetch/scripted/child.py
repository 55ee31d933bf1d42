"""Run a program in a process group of its own, with a small environment, and keep the end of what it prints."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

#: Seconds between two lines that say that it still runs.
PATIENCE = 60.0
#: Bytes of its output that are kept.
TAIL_BYTES = 1 << 16
#: Bytes of a question: the names of a few thousand files.
ASKED_BYTES = 1 << 24
#: What a program needs that downloads: the way out, and whom to trust on it.
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_NETWORK = (*PROXIES, *(name.lower() for name in PROXIES))
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def network(env: Mapping[str, str]) -> dict[str, str]:
    """The variables of `env` that say how the network is reached, without any that hold a password."""
    return {name: env[name] for name in (*_NETWORK, *CERTIFICATES) if env.get(name) and not _has_password(env[name])}


def with_password(env: Mapping[str, str]) -> list[str]:
    """The names of the variables that `network` leaves out."""
    return [name for name in _NETWORK if _has_password(env.get(name, ""))]


def _has_password(address: str) -> bool:
    return "@" in (urlsplit(address).netloc or address)


class Channel:
    """Two pipes through which a program asks, a line of JSON each, and this process answers, until it is closed."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        """`answer` gets what a line holds and returns what the answer holds; None ends the conversation."""
        self._answer = answer
        asked, self._theirs_to_ask = os.pipe()
        self._theirs_to_read, answers = os.pipe()
        self._asked, self._answers = os.fdopen(asked, "rb"), os.fdopen(answers, "wb")
        self.theirs = (self._theirs_to_read, self._theirs_to_ask)

    def serve(self) -> None:
        """Answer in a thread from now on. The program has been started: its ends are closed here."""
        for descriptor in self.theirs:
            os.close(descriptor)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._asked, self._answers, contextlib.suppress(OSError, ValueError, RecursionError):
            while line := self._asked.readline(ASKED_BYTES):
                answer = self._answer(json.loads(line))
                if answer is None:
                    return
                self._answers.write(json.dumps(answer).encode() + b"\n")
                self._answers.flush()


def run(
    argv: list[str],
    env: Mapping[str, str],
    folder: Path,
    still: Callable[[float], None],
    channel: Channel | None = None,
) -> tuple[int, str]:
    """Run a program to its end, in `folder` and with `env` alone; return its exit code, and the end of its output.

    `still(seconds)` is called once a minute meanwhile. When this process is told to stop, and when the program has
    ended, whatever it has started ends as well.
    """
    process = subprocess.Popen(
        argv,
        env=dict(env),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=channel.theirs if channel else (),
    )
    try:
        assert process.stdout is not None
        kept = bytearray()
        reader = threading.Thread(target=_keep_end, args=(process.stdout, kept), daemon=True)
        reader.start()
        if channel is not None:
            channel.serve()
        started = time.monotonic()
        while True:
            try:
                process.wait(PATIENCE)
                break
            except subprocess.TimeoutExpired:
                still(time.monotonic() - started)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    reader.join(10.0)
    return process.returncode, bytes(kept).decode(errors="replace")


def _keep_end(stream: IO[bytes], kept: bytearray) -> None:
    with stream:
        while block := stream.read1(1 << 16):  # type: ignore[attr-defined]
            kept += block
            del kept[:-TAIL_BYTES]


def size_of(folder: Path) -> int:
    """Bytes below a folder that somebody is writing to; links are not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118
    return total


def printable(text: str) -> str:
    """Text of a stranger without what would steer a terminal."""
    return re.sub(r"\x1b\[[\d;]*[A-Za-z]|[^\w\s!-~]", "", text)


def last_line(output: str) -> str:
    """The last line that says something."""
    lines = [printable(line).strip() for line in output.splitlines()]
    return next((line for line in reversed(lines) if line), "no message")
