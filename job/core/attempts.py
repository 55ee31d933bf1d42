"""Try a call again, with growing waits, while its failure may be temporary."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from job.core.console import warn

T = TypeVar("T")

#: Most seconds between two attempts.
LONGEST_WAIT = 60.0


def repeated(
    call: Callable[[], T],
    attempts: int,
    first_wait: float,
    stage: str,
    reason: Callable[[Exception], str | None],
    asked_wait: Callable[[Exception], float | None] = lambda error: None,
) -> T:
    """Return what the call returns; a failure that may pass is a line of the log.

    Args:
        attempts: so often in all.
        first_wait: seconds before the second attempt; each wait is twice the last.
        stage: whose log line it is.
        reason: what a failure was; None if another attempt cannot help.
        asked_wait: seconds that the other side asks to wait, instead.

    Raises:
        Exception: the last failure, or the first one that does not pass.
    """
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except Exception as error:
            if attempt == attempts or (why := reason(error)) is None:
                raise
            wait = min(LONGEST_WAIT, asked_wait(error) or first_wait * 2 ** (attempt - 1))
            warn(stage, f"{why}; trying again in {wait:g} s ({attempt} of {attempts - 1})")
            time.sleep(wait)
    raise AssertionError("unreachable")
