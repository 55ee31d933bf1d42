"""Signals: the first asks a run to end within GRACE_SECONDS, the second ends it at once.

Python runs a signal's handler between two of its own instructions, and so not while the main thread waits inside a
library, for another process or a GPU. The patience is therefore kept by a thread of its own, which the interpreter
tells of signals through a file descriptor.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

from job.core.errors import STOPPED_BY_SIGNAL, StoppedBySignal

SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Of GRACE_SECONDS, what is left to the interpreter's own end.
MARGIN = 1.0

_watch: _Watch | None = None
#: What the main thread was interrupted with, in words.
_stopped: str | None = None


def install() -> None:
    """Take over SIGTERM and SIGINT: they raise `StoppedBySignal` wherever the main thread is."""
    global _watch, _stopped
    _stopped = None
    if _watch is None:
        _watch = _Watch()
    _watch.asked = None
    for number in SIGNALS:
        signal.signal(number, _raise)


def set_grace(seconds: float) -> None:
    """Set GRACE_SECONDS, once it is known. Whatever does not end by itself until then is ended."""
    if _watch is not None:
        _watch.grace = seconds


def stopped() -> str | None:
    """The words of the `StoppedBySignal` that was raised, if one was.

    Not all of them arrive: Python 3.11 makes a RuntimeError of what is raised in `__set_name__`, and lazy imports make
    another error of that one.
    """
    return _stopped


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    global _stopped
    _stopped = f"stopped by {signal.Signals(number).name}; the same command goes on from here"
    raise StoppedBySignal(_stopped)


class StopRequest:
    """While entered, the first SIGTERM or SIGINT only sets `name`, for a step to be finished and kept."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        """Take over the signals (they can only be taken in the main thread)."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name


class _Watch:
    """Sees to it that a run that was asked to end does: what is on disk is whole at every instant."""

    def __init__(self) -> None:
        self.grace = 25.0
        self.asked: str | None = None
        ours, interpreters = socket.socketpair()
        interpreters.setblocking(False)
        self._interpreters = interpreters  # kept open: the interpreter writes to its number
        signal.set_wakeup_fd(interpreters.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._read, args=(ours,), name="signals", daemon=True).start()

    def _read(self, ours: socket.socket) -> None:
        while numbers := ours.recv(16):
            for number in numbers:
                if number in SIGNALS and _is_ours(signal.getsignal(number)):
                    self._arrived(signal.Signals(number).name)

    def _arrived(self, name: str) -> None:
        if self.asked is not None:
            _end(f"stopped by a second {name}, at once; the same command goes on from the last checkpoint")
        self.asked = name
        timer = threading.Timer(max(self.grace - MARGIN, MARGIN), self._out_of_patience)
        timer.daemon = True
        timer.start()

    def _out_of_patience(self) -> None:
        if self.asked is not None:
            _end(
                f"{self.asked} was not obeyed in time (GRACE_SECONDS={self.grace:g}); the same command goes on from "
                "the last checkpoint"
            )


def _is_ours(handler: Any) -> bool:
    return handler is _raise or isinstance(getattr(handler, "__self__", None), StopRequest)


def _end(why: str) -> NoReturn:
    print(f"error: {why}", file=sys.stderr, flush=True)
    os._exit(STOPPED_BY_SIGNAL)
