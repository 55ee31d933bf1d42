"""Signals: the first asks a run to end within GRACE_SECONDS, the second ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

from job.errors import STOPPED_BY_SIGNAL, StoppedBySignal

SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Of GRACE_SECONDS, what is left to the interpreter's own end.
MARGIN = 1.0

_grace = 25.0
_asked: str | None = None


def install(grace: float | None = None) -> None:
    """Take over SIGTERM and SIGINT: they raise `StoppedBySignal` wherever the main thread is.

    Args:
        grace: GRACE_SECONDS, once it is known. Whatever does not end by itself until then is ended.
    """
    global _grace, _asked
    _grace = grace or _grace
    _asked = None
    for number in SIGNALS:
        signal.signal(number, _raise)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    name = ask(number)
    raise StoppedBySignal(f"stopped by {name}; the same command goes on from here")


def ask(number: int) -> str:
    """Note that a signal has arrived, and see to it that the run ends in time. Returns its name.

    What is on disk is whole at every instant, so that the end of the patience is no loss but of time.
    """
    global _asked
    name = signal.Signals(number).name
    if _asked is not None:
        _end(f"stopped by a second {name}, at once; the same command goes on from the last checkpoint")
    _asked = name
    seconds = max(_grace - MARGIN, MARGIN)
    why = f"{name} was not obeyed in {seconds:g} s (GRACE_SECONDS); the same command goes on from the last checkpoint"
    timer = threading.Timer(seconds, _end, (why,))
    timer.daemon = True
    timer.start()
    return name


def _end(why: str) -> NoReturn:
    print(f"error: {why}", file=sys.stderr, flush=True)
    os._exit(STOPPED_BY_SIGNAL)


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
        self.name = ask(number)
