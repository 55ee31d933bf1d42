"""Writing of the two JSONL logs, and averages over the steps between lines."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np


def now() -> str:
    """Return the current date and time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def append(log: Path, record: dict[str, Any]) -> None:
    """Append one line. It is one write, so a reader never sees half of it."""
    with open(log, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(record) + "\n")


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
