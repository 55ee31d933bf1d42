"""Handling of SIGTERM and SIGINT: the first asks a run to stop within GRACE_SECONDS, the second stops it at once.

Python runs signal handlers only between bytecode instructions, so not while the main thread waits inside a library for
another process or a GPU. The deadline is therefore kept by a separate thread, which the interpreter notifies of signals
through a file descriptor.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn

from job.core.console import line
from job.core.errors import STOPPED_BY_SIGNAL, StoppedBySignal

SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: The part of GRACE_SECONDS that is reserved for the interpreter's shutdown.
MARGIN = 1.0

_watch: _Watch | None = None
#: The message of the `StoppedBySignal` that interrupted the main thread.
_stopped: str | None = None


def install() -> None:
    """Install handlers for SIGTERM and SIGINT that raise `StoppedBySignal` in the main thread."""
    global _watch, _stopped
    _stopped = None
    if _watch is None:
        _watch = _Watch()
    _watch.asked = None
    for number in SIGNALS:
        signal.signal(number, _raise)


def ignore() -> None:
    """From now on a first signal raises nothing: the process is ending, and has only to say why and to clean up.

    It still has no longer than GRACE_SECONDS for that, and a second signal still ends it at once.
    """
    for number in SIGNALS:
        signal.signal(number, _ignored)


def set_grace(seconds: float) -> None:
    """Set GRACE_SECONDS once it is known; a process that takes longer to stop is ended by force."""
    if _watch is not None:
        _watch.grace = seconds


def remaining() -> float | None:
    """Seconds until this process is ended by force; None if no signal has arrived."""
    return None if _watch is None or _watch.asked is None else _watch.deadline - time.monotonic()


def stopped() -> str | None:
    """The message of the `StoppedBySignal` that was raised, if any.

    The exception itself may get lost: Python 3.11 turns an exception in `__set_name__` into a RuntimeError, and lazy
    imports turn that one into yet another error.
    """
    return _stopped


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    global _stopped
    _stopped = f"stopped by {signal.Signals(number).name}; run the same command again to continue"
    raise StoppedBySignal(_stopped)


def _ignored(number: int, frame: FrameType | None) -> None:
    pass


class StopRequest:
    """Context manager in which the first SIGTERM or SIGINT only sets `name`, so that a step can finish and be saved."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        """Install the handlers (only possible in the main thread)."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name


class _Watch:
    """Ends the process by force when it does not stop in time; safe, since files on disk are always complete."""

    def __init__(self) -> None:
        self.grace = 25.0
        self.asked: str | None = None
        self.deadline = 0.0
        ours, interpreters = socket.socketpair()
        interpreters.setblocking(False)
        self._interpreters = interpreters  # must stay open: the interpreter writes to its file descriptor
        signal.set_wakeup_fd(interpreters.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._read, args=(ours,), name="signals", daemon=True).start()

    def _read(self, ours: socket.socket) -> None:
        while numbers := ours.recv(16):
            for number in numbers:
                if number in SIGNALS and _is_ours(signal.getsignal(number)):
                    self._arrived(signal.Signals(number).name)

    def _arrived(self, name: str) -> None:
        if self.asked is not None:
            _end(f"stopped at once by a second {name}; run the same command again to resume from the last checkpoint")
        patience = max(self.grace - MARGIN, MARGIN)
        self.deadline = time.monotonic() + patience
        self.asked = name
        timer = threading.Timer(patience, self._out_of_patience)
        timer.daemon = True
        timer.start()

    def _out_of_patience(self) -> None:
        if self.asked is not None:
            _end(
                f"did not stop in time after {self.asked} (GRACE_SECONDS={self.grace:g}); run the same command again "
                "to resume from the last checkpoint"
            )


def _is_ours(handler: Any) -> bool:
    return handler in (_raise, _ignored) or isinstance(getattr(handler, "__self__", None), StopRequest)


def _end(why: str) -> NoReturn:
    print(line("error", "run", why, exit_code=STOPPED_BY_SIGNAL), file=sys.stderr, flush=True)
    os._exit(STOPPED_BY_SIGNAL)
