"""Whether several threads may resample at once: soxr can, on some processors."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import soxr

#: soxr's engines that share nothing between calls. VHQ computes in double precision: with AVX that is cr64s.
SAFE_ENGINES = ("cr32s", "cr64s")

_ONE_AT_A_TIME = threading.Lock()


def resampling() -> AbstractContextManager[Any]:
    """What to hold around a call of soxr in a thread: a lock where the calls must come one at a time, or nothing.

    Without AVX (on ARM, for example) soxr keeps tables of sines and cosines that all calls share, and makes them longer
    without a lock. A call that another thread makes meanwhile gives a wrong signal, or ends the process.
    """
    return nullcontext() if engine() in SAFE_ENGINES else _ONE_AT_A_TIME


@cache
def engine() -> str:
    """The name of the engine that soxr's VHQ uses on this processor; empty when soxr does not tell."""
    try:
        return str(soxr.ResampleStream(2, 1, 1, dtype="float32", quality="VHQ")._csoxr.engine())
    except (AttributeError, RuntimeError):
        return ""
