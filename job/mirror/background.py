"""A thread that copies things while the stages run: when it looks, when it tries again, and how it is waited for."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

from job.core import stopping
from job.core.console import say
from job.core.errors import StoppedBySignal

#: Seconds between two looks for something new.
POLL = 1.0
#: Seconds after a failure before the next attempt; each wait is twice the last, up to the longest.
FIRST_WAIT = 5.0
LONGEST_WAIT = 300.0
#: Seconds between two lines while the end is waited for: a silent run looks as if it hung.
LINE = 300.0
#: Seconds of GRACE_SECONDS that are left for the process to end by itself.
MARGIN = 1.0


class Background(ABC):
    """A thread of its own, which is told when the stages are over (`closing`) and then ends by itself."""

    def __init__(self, name: str) -> None:
        """`name` is the thread's, for whoever looks at the process."""
        self._name = name
        self._wake, self._done = threading.Event(), threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._failures, self._again = 0, 0.0

    @abstractmethod
    def _work(self) -> None:
        """Look and copy until closing, in the thread."""

    @abstractmethod
    def _too_late(self, left: float | None) -> None:
        """Say that what was on its way is left out; `left` as for `_seconds`."""

    @abstractmethod
    def _seconds(self, left: float | None) -> float:
        """How long the end is waited for; `left` is what a signal has left of GRACE_SECONDS, None without one."""

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._done.set()

    def _looks(self) -> Iterator[bool]:
        """Yield at every look whether the stages were over before it."""
        while True:
            self._wake.wait(POLL)
            self._wake.clear()
            yield self._closing

    def _close(self) -> None:
        self._closing = True
        self._wake.set()

    def _finish(self) -> None:
        """Close, and wait for the thread's end; a first signal shortens the wait and is passed on."""
        self._close()
        try:
            self._wait()
        except StoppedBySignal:
            self._wait()
            raise

    def _wait(self) -> None:
        # Not `join`, which would count as over once a signal's exception has cut it short.
        left = stopping.remaining()
        end = time.monotonic() + max(0.0, self._seconds(left))
        while not self._done.wait(min(LINE, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                self._too_late(left)
                return
            say(self._name, "still copying; the run goes on when it is done")

    def _must_wait(self) -> bool:
        """Whether the last failure was too short a time ago."""
        return time.monotonic() < self._again

    def _failed(self) -> None:
        self._again = time.monotonic() + min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self._failures, 10))
        self._failures += 1

    def _succeeded(self) -> None:
        self._failures, self._again = 0, 0.0
