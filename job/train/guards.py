"""Guards that watch training and report problems at once, without masking anything.

A guard decides from plain numbers, so that each rule can be tested without a model. It raises `TrainingStopped`, saying
what it saw and what to change, only when continuing would waste GPU time; otherwise it warns. Every process of a run
gets the same (summed) numbers, so that all of them stop in the same step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import InitVar, asdict, dataclass, field, fields
from statistics import median
from typing import Any

from job.core.console import warn
from job.core.errors import TrainingStopped
from job.train.probe_rules import rank

#: This many steps in a row without a finite loss and gradient end the run.
MOST_BAD_STEPS = 5
#: So does this share of all steps, once there were STEPS_FOR_SHARE steps.
MOST_BAD_SHARE = 0.05
STEPS_FOR_SHARE = 100

#: A loss below this (nats per code) prints as 0.000. Overfitting a few sentences gets there too, but late: the embedded
#: clips after more than 400 steps, one short sentence after 200.
ZERO_LOSS = 5e-4
#: If the loss falls below it in the first EARLY_STEPS steps and stays there ZERO_STEPS times in a row, there was
#: nothing to learn.
EARLY_STEPS = 20
ZERO_STEPS = 10
#: Bit-identical losses in a row. One batch per epoch gives these when nothing is trained; different batches never do.
#: Evaluations use the same rows each time, so fewer of them are enough evidence.
SAME_STEPS = 25
SAME_EVALUATIONS = 3
#: A learning rate below this share of the highest so far need not change the loss (the end of a cosine schedule).
NEGLIGIBLE_RATE = 0.01
#: Training diverges when the loss exceeds DIVERGED_FACTOR times that of the first steps plus DIVERGED_NATS.
DIVERGED_FACTOR = 1.5
DIVERGED_NATS = 1.0
#: Number of steps compared at the start and at the end.
DIVERGED_STEPS = 50
#: With too high a learning rate the first steps have diverged already. So the last few steps are also compared with the
#: very first ones, which it has hardly affected: (last steps, first steps, factor on their highest loss, nats more).
DIVERGED_AT_ONCE = ((5, 1, 5.0, 5.0), (20, 3, DIVERGED_FACTOR, DIVERGED_NATS))

#: A gradient norm this many times the median of the last `SPIKE_WINDOW` norms is a spike.
SPIKE_FACTOR = 10.0
SPIKE_WINDOW = 50
#: Fewest norms for a meaningful median.
LEAST_NORMS = 20
#: Spikes in a row before a warning, and before a stop if the loss has risen as well.
SPIKES_TO_WARN = 3
SPIKES_TO_STOP = 25


@dataclass
class _Guard:
    """Base of guards: fields are plain JSON types, saved across restarts; values from the settings are not fields."""

    def state(self) -> dict[str, Any]:
        """Return the state that `load` takes, JSON-serializable."""
        return asdict(self)

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore a `state()`."""
        for kept in fields(self):
            setattr(self, kept.name, deepcopy(state[kept.name]))


@dataclass
class FiniteGuard(_Guard):
    """Counts steps with a NaN or infinite loss or gradient; stops at many in a row, a share of all, or the first."""

    skipped: int = 0
    seen: int = 0
    in_a_row: int = 0

    def admit(self, step: int, loss: float, grad_norm: float) -> bool:
        """Return whether a step was taken: `job.train.update` skips steps whose loss or gradient is not finite."""
        self.seen += 1
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.in_a_row = 0
            return True
        self.skipped += 1
        self.in_a_row += 1
        warn("train", f"step {step}: loss {loss:.4g}, gradient norm {grad_norm:.4g}: skipped")
        first = step == 1 and not math.isfinite(loss)
        advice = "lower LEARNING_RATE, or set MIXED_PRECISION=no"
        if first:
            advice = "the base model's weights or the data are broken, or DEVICE and MIXED_PRECISION do not go together"
        if first or self.in_a_row >= MOST_BAD_STEPS:
            raise TrainingStopped(f"loss is {loss:.4g} at step {step} ({self.in_a_row} in a row): {advice}")
        if self.seen >= STEPS_FOR_SHARE and self.skipped > MOST_BAD_SHARE * self.seen:
            raise TrainingStopped(
                f"{self.skipped} of {self.seen} steps had no finite loss or gradient, the last at step {step}: {advice}"
            )
        return False


@dataclass
class LossGuard(_Guard):
    """Detects that nothing is trained (loss 0 from the start, or bit-identical) and that training diverges."""

    zeros: int = 0
    still: int = 0
    same: list[float] = field(default_factory=list)
    same_evaluations: list[float] = field(default_factory=list)
    peak_rate: float = 0.0
    first: list[float] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)

    def observe(self, step: int, loss: float, grad_norm: float, rate: float = math.inf) -> None:
        """Process a step with a finite loss (nats per code) and gradient norm (unclipped); an unknown rate counts."""
        self._zero(step, loss)
        self._no_gradient(step, loss, grad_norm)
        moving = self._moving(rate) and loss >= ZERO_LOSS
        if _repeats(self.same, loss, moving) >= SAME_STEPS:
            raise TrainingStopped(
                f"the loss was exactly {loss!r} in {SAME_STEPS} steps in a row up to step {step}: nothing is trained, "
                "or all rows are alike; see data/quality.html, and raise LEARNING_RATE if it is below 1e-7"
            )
        self._diverged(step, loss)

    def evaluated(self, step: int, loss: float, rate: float = math.inf) -> None:
        """Process an evaluation's loss."""
        moving = self._moving(rate) and math.isfinite(loss) and loss >= ZERO_LOSS
        if _repeats(self.same_evaluations, loss, moving) >= SAME_EVALUATIONS:
            raise TrainingStopped(
                f"{SAME_EVALUATIONS} evaluations in a row up to step {step} gave a loss of exactly {loss!r}: nothing "
                "is trained; raise LEARNING_RATE, and see which parameters TRAIN_MODE trains"
            )

    def _moving(self, rate: float) -> bool:
        """Return whether a step at this learning rate must change the loss."""
        self.peak_rate = max(self.peak_rate, 0.0 if math.isinf(rate) else rate)
        return rate > NEGLIGIBLE_RATE * self.peak_rate

    def _zero(self, step: int, loss: float) -> None:
        low = loss < ZERO_LOSS and (self.zeros > 0 or step <= EARLY_STEPS)
        self.zeros = self.zeros + 1 if low else 0
        if self.zeros >= ZERO_STEPS:
            raise TrainingStopped(
                f"the loss is {loss:.6f} at step {step} and was below {ZERO_LOSS} in {ZERO_STEPS} steps in a row: all "
                "rows have the same codes (see data/quality.html), or the model it starts from knows them by heart "
                "(INIT_MODEL_PATH)"
            )

    def _no_gradient(self, step: int, loss: float, grad_norm: float) -> None:
        self.still = self.still + 1 if grad_norm == 0.0 and loss >= ZERO_LOSS else 0
        if self.still >= ZERO_STEPS:
            raise TrainingStopped(
                f"the gradient was exactly 0 in {ZERO_STEPS} steps in a row up to step {step}, at a loss of "
                f"{loss:.4g}: nothing is trained; see which parameters TRAIN_MODE and PROGRESSIVE_STAGES train"
            )

    def _diverged(self, step: int, loss: float) -> None:
        if len(self.first) < DIVERGED_STEPS:
            self.first.append(loss)
            for last, first, factor, nats in DIVERGED_AT_ONCE:
                before, now = max(self.first[:first]), median(self.first[-last:])
                if len(self.first) >= last + first and now > factor * before + nats:
                    raise TrainingStopped(
                        f"the loss has gone up from {before:.4g} at the start to {now:.4g} in the last {last} steps, "
                        f"at step {step}: lower LEARNING_RATE, or raise WARMUP_STEPS"
                    )
            return
        self.recent = [*self.recent, loss][-DIVERGED_STEPS:]
        before, now = median(self.first), median(self.recent)
        if len(self.recent) == DIVERGED_STEPS and now > DIVERGED_FACTOR * before + DIVERGED_NATS:
            raise TrainingStopped(
                f"the loss has gone up from {before:.4g} in the first {DIVERGED_STEPS} steps to {now:.4g} in the last, "
                f"at step {step}: lower LEARNING_RATE, or raise WARMUP_STEPS"
            )


@dataclass
class SpikeGuard(_Guard):
    """Warns of gradient norms far above normal, and stops if they persist and the loss rises with them.

    Normal is the median of recent norms, without the spikes of the current streak. A norm too small to be clipped is no
    spike: when the loss is near 0, single sentences have norms many times the median and do no harm.
    """

    max_grad_norm: InitVar[float] = 1.0
    usual: list[list[float]] = field(default_factory=list)  # [norm, loss] of the last steps
    streak: list[list[float]] = field(default_factory=list)  # the same for the spikes since then

    def __post_init__(self, max_grad_norm: float) -> None:
        self._floor = max_grad_norm or 1.0  # 0 means never clip

    def observe(self, step: int, loss: float, grad_norm: float) -> bool:
        """Process a step with a finite loss and gradient norm. Returns whether it is a spike."""
        usual = median(norm for norm, _ in self.usual) if len(self.usual) >= LEAST_NORMS else math.inf
        self.streak.append([grad_norm, loss])
        if not grad_norm > max(SPIKE_FACTOR * usual, self._floor):
            self.usual = [*self.usual, *self.streak][-SPIKE_WINDOW:]
            self.streak = []
            return False
        if len(self.streak) == SPIKES_TO_WARN:
            warn(
                "train",
                f"step {step}: gradient norm {grad_norm:.4g}, the third in a row above {SPIKE_FACTOR:g} times the "
                f"usual {usual:.4g}; if the loss goes up too, lower LEARNING_RATE",
            )
        if len(self.streak) >= SPIKES_TO_STOP:
            # At least half of them had a loss above all losses before the streak.
            loss_now, loss_before = median(loss for _, loss in self.streak), max(loss for _, loss in self.usual)
            if loss_now > loss_before:
                raise TrainingStopped(
                    f"{len(self.streak)} steps in a row up to step {step} had gradient norms above {SPIKE_FACTOR:g} "
                    f"times the usual {usual:.4g}, and a loss of {loss_now:.4g} (at most {loss_before:.4g} before): "
                    "lower LEARNING_RATE or MAX_GRAD_NORM"
                )
            self.restart()  # the loss has not risen: accept these norms as normal
        return True

    def restart(self) -> None:
        """Forget the normal norms, for example when other parameters are trained from now on."""
        self.usual = []
        self.streak = []


@dataclass
class Patience(_Guard):
    """Early stopping: tracks the best evaluation (by `probe_rules.rank`) and decides when to stop."""

    patience: InitVar[int | None]
    target: InitVar[float | None]
    best: float = math.inf
    best_step: int = 0
    best_penalty: float = 0.0
    waited: int = 0

    def __post_init__(self, patience: int | None, target: float | None) -> None:
        self._patience, self._target = patience, target

    def better(self, step: int, loss: float, penalty: float = 0.0) -> bool:
        """Return whether this evaluation is the best so far (NaN never is). `penalty` is the probe's."""
        if rank(loss, penalty) < rank(self.best, self.best_penalty):
            self.best, self.best_step, self.best_penalty, self.waited = loss, step, penalty, 0
            return True
        self.waited += 1
        return False

    def stop(self, talker_loss: float) -> str | None:
        """Return the reason to stop now, or None."""
        if self._target is not None and talker_loss <= self._target:
            return f"talker loss {talker_loss:.4f} reached TARGET_LOSS={self._target}"
        if self._patience is not None and self.waited >= self._patience:
            return f"no better validation loss in {self.waited} evaluations (EARLY_STOPPING_PATIENCE)"
        return None

    def state(self) -> dict[str, Any]:
        """Return the state that `load` takes. JSON has no infinity: `best` is None until there is one."""
        return {**super().state(), "best": self.best if math.isfinite(self.best) else None}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore a `state()`; patience and target stay those of the settings."""
        super().load({**state, "best": math.inf if state["best"] is None else state["best"]})


class Guards:
    """All guards of a run, with one combined state."""

    def __init__(self, max_grad_norm: float = 1.0, patience: int | None = None, target: float | None = None) -> None:
        self.finite = FiniteGuard()
        self.losses = LossGuard()
        self.spikes = SpikeGuard(max_grad_norm)
        self.patience = Patience(patience, target)

    def admit(self, step: int, loss: float, grad_norm: float, rate: float = math.inf) -> bool:
        """Return whether a step was taken. Raises `TrainingStopped` if any of the guards does."""
        taken = self.finite.admit(step, loss, grad_norm)
        if taken:
            self.losses.observe(step, loss, grad_norm, rate)
            self.spikes.observe(step, loss, grad_norm)
        return taken

    def state(self) -> dict[str, Any]:
        """What `load` takes, JSON-ready."""
        return {name: guard.state() for name, guard in vars(self).items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state()`; guards that it does not know start afresh."""
        for name, guard in vars(self).items():
            if name in state:
                guard.load(state[name])


def _repeats(seen: list[float], value: float, counts: bool) -> int:
    """Count how often in a row `value` was seen; `seen` holds that run of equal values, reset by a different one."""
    if not counts or (seen and seen[-1] != value):
        seen.clear()
    if counts:
        seen.append(value)
    return len(seen)
