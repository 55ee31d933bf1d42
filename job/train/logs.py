"""Writing of the two JSONL logs, and averages over the steps between lines."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from job.core import files
from job.core.console import warn


def now() -> str:
    """Return the current date and time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Lines:
    """Writes the lines of the logs. On a full disk lines wait for the next one's turn: they are not worth ending a run.

    Args:
        making_room: calls what it is given, and again if it can make room on a full disk.
    """

    def __init__(self, making_room: Callable[[Callable[[], None]], None] = lambda write: write()) -> None:
        self._making_room = making_room
        self._waiting: dict[Path, bytes] = {}
        self._warned = False

    def append(self, log: Path, record: dict[str, Any]) -> None:
        """Append one line, and those that wait. They are written at once, so a reader never sees half of one."""
        lines = self._waiting.pop(log, b"") + json.dumps(record).encode() + b"\n"
        try:
            self._making_room(partial(_write, log, lines))
        except OSError as error:
            if not files.is_full(error):
                raise
            self._waiting[log] = lines
            if not self._warned:
                warn(
                    "train", f"OUTPUT_DIR={log.parent} is full: make room; lines of {log.name} wait until there is some"
                )
            self._warned = True
        else:
            self._warned = bool(self._waiting)

    def finish(self) -> None:
        """Write what still waits; raises OSError if that is not possible."""
        for log in list(self._waiting):
            self._making_room(partial(_write, log, self._waiting[log]))
            del self._waiting[log]
        self._warned = False

    def retry(self) -> None:
        """Write what still waits if there is room now: a checkpoint knows only of lines that are written."""
        try:
            self.finish()
        except OSError as error:
            if not files.is_full(error):
                raise


def _write(log: Path, lines: bytes) -> None:
    """Append lines, or nothing of them."""
    size = log.stat().st_size if log.exists() else 0
    try:
        with open(log, "ab", buffering=0) as handle:
            left = memoryview(lines)
            while left:
                left = left[handle.write(left) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(log, size)
        raise


class Window:
    """Averages the steps between two log lines. Its `steps` are part of a checkpoint."""

    def __init__(self, steps: list[dict[str, Any]] | None = None) -> None:
        self.steps = steps or []
        self.restart()

    def restart(self) -> None:
        """Restart the clock, so that evaluations do not count as training time."""
        self._started, self._frames = time.monotonic(), 0

    def add(self, losses: dict[str, Any]) -> None:
        """Add a step."""
        self.steps.append(losses)
        self._frames += losses["frames"]

    def record(self, step: int, epoch: int, rate: float, norm: float) -> dict[str, Any]:
        """Return the log line and reset. Skipped steps are included with their (non-finite) values."""
        means = {k: float(np.mean([s[k] for s in self.steps])) for k in ("loss", "talker_loss", "sub_talker_loss")}
        speed = round(self._frames / max(time.monotonic() - self._started, 1e-9), 1)
        self.steps = []
        self.restart()
        return {
            "step": step,
            "epoch": epoch,
            **means,
            "learning_rate": rate,
            "grad_norm": norm,
            "frames_per_second": speed,
            "timestamp": now(),
        }
