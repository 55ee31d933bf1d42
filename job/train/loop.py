"""The training loop, from prepared data to `output/best` and `output/last`: `_Run.run` shows one step.

It combines `setup` (model, data, trained parameters), `schedule` (the rows of each step), `step` (losses and
gradients), `update` (the optimizer step), `guards`, `evaluator`, and `run_state` (the contents of a checkpoint, and
resuming from one).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from job.config.settings import Settings
from job.core.console import progress, say, warn
from job.core.errors import FollowedRank, StoppedBySignal, TrainingStopped, first_line
from job.core.out_of_memory import is_out_of_memory
from job.core.stopping import StopRequest
from job.loss.objective import Objective
from job.optimizer.optimizers import optimizer_of
from job.processes.ranks import ALONE, Ranks
from job.train import agreement, earlier_run, logs, progressive, resume, setup
from job.train.checkpoint import Weights, forget_candidates, keeps_candidates
from job.train.evaluator import Evaluator
from job.train.handover import Handover
from job.train.order import ahead
from job.train.passes import most_joined
from job.train.readings import Reading
from job.train.run_state import RunState, start_of
from job.train.schedule import Schedule
from job.train.spread import Spread
from job.train.step import LESS_MEMORY, Stepper
from job.train.sub_talker_guard import check_sub_talker, sub_talker_gradients
from job.train.trackers import Trackers
from job.train.update import Update
from job.train.writer import BackgroundWriter


def train(settings: Settings, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Run the training stage.

    Args:
        ranks: the processes that train together.

    Raises:
        BadInput: the prepared data does not fit the model or the settings.
        TrainingStopped: the loss is not a number, no evaluation gave a finite loss, or memory ran out.
        StoppedBySignal: SIGTERM or SIGINT; the same command resumes from the checkpoint that was written.
    """
    with (
        setup.accelerator_of(settings, ranks) as accelerator,
        StopRequest() as stop,
        Trackers(settings, accelerator) as trackers,
        BackgroundWriter() as writer,
    ):
        try:
            return _Run(settings, accelerator, ranks, stop, trackers, writer).run()
        except RuntimeError as error:
            if not is_out_of_memory(error):  # in model, optimizer or evaluation, which cannot be split
                raise
            raise TrainingStopped(f"out of GPU memory ({first_line(error)}): {LESS_MEMORY}") from error


@dataclass
class Taken:
    """A step whose losses (talker's, sub-talker's) and gradient norm have not been read from the device yet."""

    step: int
    rate: float
    frames: int
    reading: Reading


class _Run:
    """One training run: `__init__` prepares what the steps share, `run` takes the steps."""

    def __init__(
        self,
        settings: Settings,
        accelerator: Any,
        ranks: Ranks,
        stop: StopRequest,
        trackers: Trackers,
        writer: BackgroundWriter,
    ) -> None:
        self.settings = settings
        self.paths = settings.paths
        self.accelerator = accelerator
        self.ranks = ranks
        self.spread = Spread(ranks, settings.distributed == "fsdp")
        self.stop = stop
        self.trackers = trackers
        self.writer = writer
        self.training = training = setup.set_up(settings, accelerator)
        agreement.check(settings, training.basis, ranks)
        found = ranks.first_does(lambda: start_of(settings, training.basis, own_disks=ranks.own_disks))
        self.start = found.on(self.paths.output)
        agreement.check_start(settings, self.start.checkpoint, ranks)
        parts = self.start.parts(settings.gradient_accumulation_steps, ranks.world)
        self.schedule = Schedule(settings, training.train_rows, parts)
        setup.announce(settings, training, self.schedule, accelerator)

        objective: Any = Objective(training.model).to(accelerator.device)
        setup.spread_over(training, objective, self.spread, accelerator.mixed_precision)
        objective.train()
        self.optimizer = optimizer_of(settings, training.groups)
        self.scheduler = setup.scheduler_of(settings, self.optimizer, self.schedule.steps)
        self.update = Update(self.optimizer, settings.max_grad_norm or math.inf)
        self.state = RunState(settings, training, self.schedule, self.optimizer, self.scheduler)
        joined = most_joined(settings, accelerator.device.type, sharded=self.spread.sharded)
        division = self.start.division(joined)
        self.stepper = Stepper(settings, accelerator, objective, training, self.spread, stop, division)
        self.evaluator = Evaluator(settings, accelerator, objective, training, self.spread)
        self.making_room = partial(earlier_run.making_room, self.paths)
        self.lines = logs.Lines(self.making_room)
        self.taken: Taken | None = None  # the last step, until its numbers are read
        first, sharded = ranks.first, self.spread.sharded
        self.handover = Handover(settings, training.exporter, writer, first=first, sharded=sharded)
        self.losses: dict[str, float] = {}  # of the last step whose numbers have been read
        self.norm = 0.0
        self.active = "all"
        self.unfrozen = True  # parameters start to be trained for the first time

    def run(self) -> dict[str, Any]:
        """Take the steps: forward and backward, clip, optimizer step, log, evaluate, save."""
        settings, schedule, stepper = self.settings, self.schedule, self.stepper
        step = done = self.state.begin(self.start, self.ranks.first, self.ranks.own_disks)
        self.trackers.start(resumed_from=done)
        left = [] if self._is_over(done) else schedule.after(done)
        ready = ahead(left, stepper.build)  # builds the next steps' batches in the background
        for planned, batches in progress(ready, stage="train", total=schedule.steps - done, unit="steps"):
            step, epoch, _ = planned
            self._activate(epoch)  # PROGRESSIVE_STAGES

            losses, frames = stepper.take(planned, batches)  # forward and backward, over all parts and processes
            self._check_sub_talker(losses)
            norm = self.update(stepper.parameters, losses)  # clip, and the optimizer's step
            self.optimizer.zero_grad(set_to_none=True)
            rate = self.scheduler.get_last_lr()[0]
            self.scheduler.step()
            self._settle()  # read the previous step's numbers, which have arrived by now
            self.taken = Taken(step, rate, frames, Reading(torch.cat([losses, norm.to(losses).reshape(1)])))

            last = step == schedule.steps
            logged = step == 1 or step % settings.logging_steps == 0 or last
            evaluated = step % schedule.eval_every == 0 or last
            saved = stepper.stopping or (step % settings.save_steps == 0 and not last)
            if logged or evaluated or saved:
                self._settle()
            if logged:
                self._log("train", self.paths.training_log, self.state.window.record(step, epoch, rate, self.norm))
            reason = self._evaluate(step, epoch, rate) if evaluated else None
            if saved:
                self._save(step)
            if stepper.stopping:
                self._stopped(step)
            if self.handover.due(step):  # PUSH_STEPS
                self._settle()
                self.handover.take(step, self.losses)
            if reason:
                say("train", f"stopping at step {step}: {reason}")
                break
        return self._finish(step)

    def _is_over(self, done: int) -> bool:
        """Whether the validation after step `done`, where this run was cut short, had ended it before its last step."""
        measured = self.state.measured
        if not self.start.own or measured.get("step") != done:
            return False
        reason = self.state.guards.patience.stop(measured["talker_loss"])
        if reason:
            say("train", f"stopped at step {done}: {reason}")
        return reason is not None

    def _check_sub_talker(self, losses: torch.Tensor) -> None:
        """Stop a run whose sub-talker learns nothing, in the first step that trains it on any frames."""
        if self.unfrozen and self.training.codebooks > 1 and float(losses[1]):
            self.unfrozen = False
            gradients = sub_talker_gradients(self.training.model)
            check_sub_talker(gradients, self.settings.sub_talker_loss_weight, self.training.codebooks)

    def _settle(self) -> None:
        """Read the last step's losses and gradient norm, which the device has computed by now.

        Called once the next step is queued, or before something is logged or saved, so that the host does not wait for
        the GPU otherwise.
        """
        taken, self.taken = self.taken, None
        if taken is None:
            return
        talker, sub_talker, self.norm = taken.reading.numbers()
        loss = talker + self.settings.sub_talker_loss_weight * sub_talker
        self.state.guards.admit(taken.step, loss, self.norm, taken.rate)
        self.losses = {"loss": loss, "talker_loss": talker, "sub_talker_loss": sub_talker}
        self.state.window.add({**self.losses, "frames": taken.frames})

    def _activate(self, epoch: int) -> None:
        """Switch to the parts that PROGRESSIVE_STAGES trains in this epoch."""
        active = progressive.activate(self.training.phases, epoch, self.training.groups)
        if active != self.active:
            say("train", f"epoch {epoch}: training {active}")
            self._settle()
            self.active, self.unfrozen = active, True
            self.state.guards.spikes.restart()  # other parameters have other gradient norms

    # ---- evaluation and checkpoints ----------------------------------------------------------------------------------

    def _evaluate(self, step: int, epoch: int, rate: float) -> str | None:
        """Evaluate, export the model if it is the best so far, and return the reason to stop, or None."""
        measured = {"step": step, "epoch": epoch, **self.evaluator.losses(), "timestamp": logs.now()}
        self.state.guards.losses.evaluated(step, measured["loss"], rate)
        penalty = 0.0
        if math.isfinite(measured["loss"]):
            heard = self.evaluator.hear()
            measured.update(heard.record())
            if heard.penalty:
                warn("train", f"step {step}: {heard.summary()}")
            penalty = heard.penalty
        self.state.measured = measured
        self._log("validation", self.paths.validation_log, measured)
        better = self.state.guards.patience.better(step, measured["loss"], penalty)
        wanted = [self.paths.best] if better else []
        if keeps_candidates(self.settings) and math.isfinite(measured["loss"]):
            wanted.append(self.paths.candidates / f"step-{step}")
        self._export(*wanted)
        self.state.window.restart()
        return self.state.guards.patience.stop(measured["talker_loss"])

    def _log(self, kind: str, log: Path, record: dict[str, Any]) -> None:
        if self.ranks.first:
            self.lines.append(log, record)
        self.trackers.log(kind, record)

    def _export(self, *directories: Path) -> None:
        """Write a checkpoint for stock `qwen_tts` to each of the directories, while training continues."""
        if not directories or not (self.ranks.first or self.spread.sharded):
            return
        weights = self.training.exporter.snapshot()
        kept = {k: v for k, v in self.state.measured.items() if k not in ("timestamp", "said")}
        settings = self.settings
        progress = {**kept, "train_mode": settings.train_mode, "text_layout": settings.text_layout}
        if self.ranks.first:
            self.writer.submit(lambda: self._write(directories, weights, progress))

    def _write(self, directories: Sequence[Path], weights: Weights, progress: dict[str, Any]) -> None:
        for directory in directories:
            self.making_room(partial(self.training.exporter.write, directory, weights, progress))
        if keeps_candidates(self.settings):
            forget_candidates(self.paths.candidates, self.settings.save_total_limit)

    def _save(self, step: int) -> None:
        """Write a checkpoint to resume from, while training continues."""
        if not (self.ranks.first or self.spread.sharded):
            return
        self.lines.retry()
        taken = self.state.snapshot(step, self.stepper.division, self.ranks.first)
        if self.ranks.first:
            keep = self.settings.save_total_limit
            self.writer.submit(lambda: resume.save(self.paths.output, taken, keep, self.making_room))

    def _stopped(self, step: int) -> NoReturn:
        """Stop after a signal to any of the processes, once the checkpoint is on disk."""
        self.writer.wait()
        self.ranks.wait()
        if not self.ranks.first:
            raise FollowedRank(StoppedBySignal.exit_code)
        name = self.stop.name or "a signal to another process"
        raise StoppedBySignal(f"stopped by {name} after step {step}; the same command resumes from it")

    # ---- beginning and end -------------------------------------------------------------------------------------------

    def _finish(self, step: int) -> dict[str, Any]:
        best = self.state.guards.patience
        if best.best_step == 0:
            raise TrainingStopped(
                f"no evaluation gave a finite loss (the last: {self.state.measured['loss']:.4g}); lower LEARNING_RATE"
            )
        self._export(self.paths.last)
        if self.handover.pending:
            self.handover.take(step, self.losses)
        self.writer.wait()
        self.lines.finish()
        self.ranks.first_does(lambda: earlier_run.forget(self.paths))
        last = self.state.measured["loss"]
        what = "best loss" if best.best <= last else "chosen for what it says (PROBE_SENTENCES): loss"
        say("train", f"{step} steps; {what} {best.best:.4f} at step {best.best_step}, last {last:.4f}")
        return {
            "steps": step,
            "best_step": best.best_step,
            "best_loss": best.best,
            "last_loss": last,
            "skipped_steps": self.state.guards.finite.skipped,
            "trained_parameters": {g.name: g.size for g in self.training.groups},
        }
