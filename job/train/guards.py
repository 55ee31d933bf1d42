"""Watching the loss: steps that are not numbers are skipped and counted, never masked."""

from __future__ import annotations

import math

from job.console import warn
from job.errors import TrainingStopped

#: So many steps in a row without a finite loss and gradient end the run.
MOST_BAD_STEPS = 5


class FiniteGuard:
    """Counts steps whose loss or gradient is NaN or infinite."""

    def __init__(self) -> None:
        self.skipped = 0
        self._in_a_row = 0

    def admit(self, step: int, loss: float, grad_norm: float) -> bool:
        """Whether a step may be taken.

        Raises:
            TrainingStopped: `MOST_BAD_STEPS` in a row may not, or the very first step has no finite loss.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self._in_a_row = 0
            return True
        self.skipped += 1
        self._in_a_row += 1
        warn("train", f"step {step}: loss {loss:.4g}, gradient norm {grad_norm:.4g}: skipped")
        first = step == 1 and not math.isfinite(loss)
        if first or self._in_a_row >= MOST_BAD_STEPS:
            advice = (
                "the base model's weights or the data are broken (or DEVICE and MIXED_PRECISION do not fit each other)"
                if first
                else "lower LEARNING_RATE, or set MIXED_PRECISION=no"
            )
            raise TrainingStopped(f"loss is {loss:.4g} at step {step} ({self._in_a_row} in a row): {advice}")
        return False


class Patience:
    """Decides which evaluation is the best one, and when to stop waiting for a better one."""

    def __init__(self, patience: int | None, target: float | None) -> None:
        self.best = math.inf
        self.best_step = 0
        self._patience = patience
        self._target = target
        self._waited = 0

    def better(self, step: int, loss: float) -> bool:
        """Whether `loss` is the lowest so far (NaN never is)."""
        if loss < self.best:
            self.best, self.best_step, self._waited = loss, step, 0
            return True
        self._waited += 1
        return False

    def stop(self, talker_loss: float) -> str | None:
        """Why to stop now, if there is a reason."""
        if self._target is not None and talker_loss <= self._target:
            return f"talker loss {talker_loss:.4f} reached TARGET_LOSS={self._target}"
        if self._patience is not None and self._waited >= self._patience:
            return f"no better validation loss in {self._waited} evaluations (EARLY_STOPPING_PATIENCE)"
        return None
