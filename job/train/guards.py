"""Watching training: what is wrong with it is said at once, and nothing is masked.

A guard decides from plain numbers, so that each rule can be tested without a model. It raises `TrainingStopped`, saying
what it saw and what to change, only where going on would cost GPU time for nothing; short of that it warns. Each has a
`state()`, JSON-ready, and a `load()` to go on from it after a restart. Where training is spread over processes, give
every process the same (reduced) numbers: all of them then stop in the same step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from statistics import median
from typing import Any, ClassVar

from job.core.console import warn
from job.core.errors import TrainingStopped
from job.train.probe_rules import rank

#: So many steps in a row without a finite loss and gradient end the run.
MOST_BAD_STEPS = 5
#: So does this share of all steps, once there are enough to speak of a share.
MOST_BAD_SHARE = 0.05
STEPS_FOR_SHARE = 100

#: A loss below this (nats a code) prints as 0.000. Learning a few sentences by heart gets there too, but late: the
#: embedded clips after more than 400 steps, one short sentence after 200.
ZERO_LOSS = 5e-4
#: Below it from within the first EARLY_STEPS steps on, ZERO_STEPS times in a row, nothing was there to be learnt.
EARLY_STEPS = 20
ZERO_STEPS = 10
#: Losses that are the same to the last bit. One batch an epoch gives this when nothing is trained; different batches
#: never do. Evaluations are over the same rows each time, so that fewer of them tell as much.
SAME_STEPS = 25
SAME_EVALUATIONS = 3
#: A rate below this share of the highest so far changes nothing that a loss must show (a cosine's end).
NEGLIGIBLE_RATE = 0.01
#: A loss this much above that of the first steps is diverging: so many times it, and so many nats more.
DIVERGED_FACTOR = 1.5
DIVERGED_NATS = 1.0
#: Steps at the start and at the end that are compared for it.
DIVERGED_STEPS = 50
#: With too high a rate the first steps have diverged themselves. So these many of the last steps are compared with the
#: very first ones, which the rate has hardly touched: (last steps, first steps, times their highest loss, nats more).
DIVERGED_AT_ONCE = ((5, 1, 5.0, 5.0), (20, 3, DIVERGED_FACTOR, DIVERGED_NATS))

#: A gradient norm so many times the median of the last `SPIKE_WINDOW` is a spike.
SPIKE_FACTOR = 10.0
SPIKE_WINDOW = 50
#: Norms before a median means something.
LEAST_NORMS = 20
#: Spikes in a row to warn at, and to stop at if the loss is up as well.
SPIKES_TO_WARN = 3
SPIKES_TO_STOP = 25


class _Guard:
    """What is kept over a restart: the attributes named in `_kept`, all of them plain JSON types."""

    _kept: ClassVar[tuple[str, ...]] = ()

    def state(self) -> dict[str, Any]:
        """What `load` takes, JSON-ready."""
        return {name.strip("_"): deepcopy(getattr(self, name)) for name in self._kept}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state()`; thresholds stay those of the settings."""
        for name in self._kept:
            setattr(self, name, deepcopy(state[name.strip("_")]))


class FiniteGuard(_Guard):
    """Counts steps whose loss or gradient is NaN or infinite."""

    _kept = ("skipped", "_seen", "_in_a_row")

    def __init__(self) -> None:
        self.skipped = 0
        self._seen = 0
        self._in_a_row = 0

    def admit(self, step: int, loss: float, grad_norm: float) -> bool:
        """Whether a step was taken: `job.train.update` leaves out those whose loss or gradient is not finite.

        Raises:
            TrainingStopped: `MOST_BAD_STEPS` in a row were not, or the very first step has no finite loss, or more than
                `MOST_BAD_SHARE` of all steps were not.
        """
        self._seen += 1
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
        if self._seen >= STEPS_FOR_SHARE and self.skipped > MOST_BAD_SHARE * self._seen:
            raise TrainingStopped(
                f"{self.skipped} of {self._seen} steps had no finite loss or gradient, the last at step {step}: lower "
                "LEARNING_RATE, or set MIXED_PRECISION=no"
            )
        return False


class LossGuard(_Guard):
    """Notices that nothing is trained (a loss at 0 at once, or the same to the last bit) and that training diverges."""

    _kept = ("_zeros", "_still", "_same", "_same_evaluations", "_peak_rate", "_first", "_recent")

    def __init__(self) -> None:
        self._zeros = 0
        self._still = 0
        self._same: list[float] = []
        self._same_evaluations: list[float] = []
        self._peak_rate = 0.0
        self._first: list[float] = []
        self._recent: list[float] = []

    def observe(self, step: int, loss: float, grad_norm: float, rate: float = math.inf) -> None:
        """Take in a step with a finite loss and gradient.

        Args:
            step: from 1.
            loss: nats a code.
            grad_norm: before clipping.
            rate: the learning rate it is taken with; unknown, every rate counts.

        Raises:
            TrainingStopped: the loss is 0 from the start, does not change at all, has no gradient, or is far above that
                of the first steps.
        """
        self._zero(step, loss)
        self._no_gradient(step, loss, grad_norm)
        moving = self._moving(rate) and loss >= ZERO_LOSS
        if _repeats(self._same, loss, moving) >= SAME_STEPS:
            raise TrainingStopped(
                f"the loss was exactly {loss!r} in {SAME_STEPS} steps in a row up to step {step}: nothing is trained, "
                "or all rows are alike; see data/quality.html, and raise LEARNING_RATE if it is below 1e-7"
            )
        self._diverged(step, loss)

    def evaluated(self, step: int, loss: float, rate: float = math.inf) -> None:
        """Take in an evaluation's loss.

        Raises:
            TrainingStopped: `SAME_EVALUATIONS` in a row gave the same to the last bit.
        """
        moving = self._moving(rate) and math.isfinite(loss) and loss >= ZERO_LOSS
        if _repeats(self._same_evaluations, loss, moving) >= SAME_EVALUATIONS:
            raise TrainingStopped(
                f"{SAME_EVALUATIONS} evaluations in a row up to step {step} gave a loss of exactly {loss!r}: nothing "
                "is trained; raise LEARNING_RATE, and see which parameters TRAIN_MODE trains"
            )

    def _moving(self, rate: float) -> bool:
        """Whether a step at this rate must change the loss."""
        if math.isinf(rate):
            return True
        self._peak_rate = max(self._peak_rate, rate)
        return rate > NEGLIGIBLE_RATE * self._peak_rate

    def _zero(self, step: int, loss: float) -> None:
        low = loss < ZERO_LOSS and (self._zeros > 0 or step <= EARLY_STEPS)
        self._zeros = self._zeros + 1 if low else 0
        if self._zeros >= ZERO_STEPS:
            raise TrainingStopped(
                f"the loss is {loss:.6f} at step {step} and was below {ZERO_LOSS} in {ZERO_STEPS} steps in a row: all "
                "rows have the same codes (see data/quality.html), or the model it starts from knows them by heart "
                "(INIT_MODEL_PATH)"
            )

    def _no_gradient(self, step: int, loss: float, grad_norm: float) -> None:
        self._still = self._still + 1 if grad_norm == 0.0 and loss >= ZERO_LOSS else 0
        if self._still >= ZERO_STEPS:
            raise TrainingStopped(
                f"the gradient was exactly 0 in {ZERO_STEPS} steps in a row up to step {step}, at a loss of "
                f"{loss:.4g}: nothing is trained; see which parameters TRAIN_MODE and PROGRESSIVE_STAGES train"
            )

    def _diverged(self, step: int, loss: float) -> None:
        if len(self._first) < DIVERGED_STEPS:
            self._first.append(loss)
            for last, first, factor, nats in DIVERGED_AT_ONCE:
                before, now = max(self._first[:first]), median(self._first[-last:])
                if len(self._first) >= last + first and now > factor * before + nats:
                    raise TrainingStopped(
                        f"the loss has gone up from {before:.4g} at the start to {now:.4g} in the last {last} steps, "
                        f"at step {step}: lower LEARNING_RATE, or raise WARMUP_STEPS"
                    )
            return
        self._recent = [*self._recent, loss][-DIVERGED_STEPS:]
        before, now = median(self._first), median(self._recent)
        if len(self._recent) == DIVERGED_STEPS and now > DIVERGED_FACTOR * before + DIVERGED_NATS:
            raise TrainingStopped(
                f"the loss has gone up from {before:.4g} in the first {DIVERGED_STEPS} steps to {now:.4g} in the last, "
                f"at step {step}: lower LEARNING_RATE, or raise WARMUP_STEPS"
            )


class SpikeGuard(_Guard):
    """Warns of gradient norms far above the usual, and stops if they stay there and the loss goes up with them.

    The usual is the median of the last norms, spikes left out while they last. A norm that is not even clipped is no
    spike: where the loss is near 0, single sentences have norms of many times the median and do no harm.

    Args:
        max_grad_norm: MAX_GRAD_NORM; 0 (never clip) counts as 1.
    """

    _kept = ("_usual", "_streak")

    def __init__(self, max_grad_norm: float = 1.0) -> None:
        self._floor = max_grad_norm or 1.0
        self._usual: list[list[float]] = []  # [norm, loss] of the last steps
        self._streak: list[list[float]] = []  # and of the spikes since

    def observe(self, step: int, loss: float, grad_norm: float) -> bool:
        """Take in a step with a finite loss and gradient. Returns whether it is a spike.

        Raises:
            TrainingStopped: `SPIKES_TO_STOP` in a row, and half of these steps had a loss above all before them.
        """
        usual = median(norm for norm, _ in self._usual) if len(self._usual) >= LEAST_NORMS else math.inf
        self._streak.append([grad_norm, loss])
        if not grad_norm > max(SPIKE_FACTOR * usual, self._floor):
            self._usual = [*self._usual, *self._streak][-SPIKE_WINDOW:]
            self._streak = []
            return False
        if len(self._streak) == SPIKES_TO_WARN:
            warn(
                "train",
                f"step {step}: gradient norm {grad_norm:.4g}, the third in a row above {SPIKE_FACTOR:g} times the "
                f"usual {usual:.4g}; if the loss goes up too, lower LEARNING_RATE",
            )
        if len(self._streak) >= SPIKES_TO_STOP:
            loss_now, loss_before = median(loss for _, loss in self._streak), max(loss for _, loss in self._usual)
            if loss_now > loss_before:
                raise TrainingStopped(
                    f"{len(self._streak)} steps in a row up to step {step} had gradient norms above {SPIKE_FACTOR:g} "
                    f"times the usual {usual:.4g}, and a loss of {loss_now:.4g} (at most {loss_before:.4g} before): "
                    "lower LEARNING_RATE or MAX_GRAD_NORM"
                )
            self.restart()  # the loss does not suffer: these norms are the usual from now on
        return True

    def restart(self) -> None:
        """Forget what was usual: after other parameters are trained, for example."""
        self._usual = []
        self._streak = []


class Patience(_Guard):
    """Decides which evaluation is the best one, and when to stop waiting for a better one.

    Both go by `job.train.probe_rules.rank`, which is the loss alone where nothing is said at evaluations.
    """

    _kept = ("best", "best_step", "best_penalty", "_waited")

    def __init__(self, patience: int | None, target: float | None) -> None:
        self.best = math.inf
        self.best_step = 0
        self.best_penalty = 0.0
        self._patience = patience
        self._target = target
        self._waited = 0

    def better(self, step: int, loss: float, penalty: float = 0.0) -> bool:
        """Whether this evaluation ranks first so far (NaN never does). `penalty` is the probe's."""
        if rank(loss, penalty) < rank(self.best, self.best_penalty):
            self.best, self.best_step, self.best_penalty, self._waited = loss, step, penalty, 0
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

    def state(self) -> dict[str, Any]:
        """What `load` takes. JSON has no infinity: `best` is None before there is one."""
        return {**super().state(), "best": self.best if math.isfinite(self.best) else None}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state()`; patience and target stay those of the settings."""
        super().load({**state, "best": math.inf if state["best"] is None else state["best"]})


class Guards:
    """All guards of a run, their state together.

    Args:
        max_grad_norm: MAX_GRAD_NORM.
        patience: evaluations to wait for a better one, None for ever.
        target: TARGET_LOSS.
    """

    def __init__(self, max_grad_norm: float = 1.0, patience: int | None = None, target: float | None = None) -> None:
        self.finite = FiniteGuard()
        self.losses = LossGuard()
        self.spikes = SpikeGuard(max_grad_norm)
        self.patience = Patience(patience, target)

    def admit(self, step: int, loss: float, grad_norm: float, rate: float = math.inf) -> bool:
        """Whether a step was taken. Raises `TrainingStopped` for what `FiniteGuard` and the others stop for."""
        if not self.finite.admit(step, loss, grad_norm):
            return False
        self.losses.observe(step, loss, grad_norm, rate)
        self.spikes.observe(step, loss, grad_norm)
        return True

    def state(self) -> dict[str, Any]:
        """What `load` takes, JSON-ready."""
        return {name: guard.state() for name, guard in vars(self).items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state()`; guards that it does not know start afresh."""
        for name, guard in vars(self).items():
            if name in state:
                guard.load(state[name])


def _repeats(seen: list[float], value: float, counts: bool) -> int:
    """How often in a row `value` has come; `seen` is that row, kept from call to call.

    Another value begins a new row. One that does not count ends it.
    """
    if not counts or (seen and seen[-1] != value):
        seen.clear()
    if counts:
        seen.append(value)
    return len(seen)
