"""Allow concurrent resampling only where soxr is thread-safe, which depends on the processor."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import soxr

#: soxr's engines without shared state. VHQ computes in double precision: with AVX that is cr64s.
SAFE_ENGINES = ("cr32s", "cr64s")

_ONE_AT_A_TIME = threading.Lock()


def resampling() -> AbstractContextManager[Any]:
    """Context manager to hold while calling soxr from a thread: a lock where calls must be serialized, else a no-op.

    Without AVX (on ARM, for example) soxr has global tables of sines and cosines, which it enlarges without a lock. A
    concurrent call from another thread then yields a wrong signal or crashes the process.
    """
    return nullcontext() if engine() in SAFE_ENGINES else _ONE_AT_A_TIME


@cache
def engine() -> str:
    """Name of the engine that soxr uses for VHQ on this processor; empty if soxr does not expose it."""
    try:
        return str(soxr.ResampleStream(2, 1, 1, dtype="float32", quality="VHQ")._csoxr.engine())
    except (AttributeError, RuntimeError):
        return ""
