"""The training stage, from prepared data to `output/best` and `output/last`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from job import files
from job.console import progress, say, warn
from job.errors import BadInput, FollowedRank, StoppedBySignal, TrainingStopped
from job.ranks import ALONE, Ranks
from job.settings import Settings
from job.stopping import StopRequest
from job.train import logs, progressive, resume, setup, warm
from job.train.data import Order, admitted, ahead, epoch_order
from job.train.evaluator import Evaluator
from job.train.guards import Guards, check_sub_talker, sub_talker_gradients
from job.train.logs import Window
from job.train.objective import Objective
from job.train.optimizers import optimizer_of
from job.train.readings import Reading
from job.train.spread import Spread
from job.train.step import Part, Stepper
from job.train.trackers import Trackers
from job.train.update import Update
from job.train.writer import BackgroundWriter

#: Evaluations in a run unless EVAL_STEPS says otherwise.
MOST_EVALUATIONS = 20
#: Evaluations without a better one that end a run with held-out rows, unless EARLY_STOPPING_PATIENCE says otherwise.
DEFAULT_PATIENCE = 5


def train(settings: Settings, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Run the stage.

    Args:
        ranks: the processes that train together.

    Raises:
        BadInput: the prepared data does not fit the model or the settings.
        TrainingStopped: the loss is not a number, or no evaluation gave a finite loss.
        StoppedBySignal: SIGTERM or SIGINT; the same command goes on from the checkpoint that was written.
    """
    with (
        setup.accelerator_of(settings, ranks) as accelerator,
        StopRequest() as stop,
        Trackers(settings, accelerator) as trackers,
        BackgroundWriter() as writer,
    ):
        return _Run(settings, accelerator, ranks, stop, trackers, writer).run()


@dataclass
class Taken:
    """A step whose losses (talker's, sub-talker's) and norm have not been read."""

    step: int
    rate: float
    frames: int
    reading: Reading


class _Run:
    """One training run: what the steps share."""

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
        self.training = setup.set_up(settings, accelerator)
        held_out = len(self.training.eval_rows) > 0
        patience = settings.early_stopping_patience
        if patience is None and held_out:
            patience = DEFAULT_PATIENCE
        self.guards = Guards(settings.max_grad_norm, patience or None, settings.target_loss)
        self.window = Window()
        self.measured: dict[str, Any] = {}
        self.taken: Taken | None = None  # the last step, until its numbers are read
        self.norm = 0.0
        self.active = "all"
        self.unfrozen = True  # parameters that have not been trained before are about to be
        self.checkpoint, self.begun = ranks.first_does(self._checkpoint)
        # A step is the same whoever goes on with the run: as many batches as those it began with took together.
        accumulated = settings.gradient_accumulation_steps
        self.parts = int(self.begun.get("parts") or accumulated * ranks.world)
        if self.begun.get("accumulated", accumulated) != accumulated:  # RESUME=<path>, and now they are others
            self.parts = self.parts // int(self.begun["accumulated"]) * accumulated
        # The first epoch's length stands for all: batches by TOKENS_PER_BATCH may differ by one or two.
        self.per_epoch = math.ceil(len(self._order(0, 1.0)) / self.parts)
        self.steps = settings.max_steps or settings.num_epochs * self.per_epoch
        self.eval_every = settings.eval_steps or max(self.per_epoch, math.ceil(self.steps / MOST_EVALUATIONS))

    def run(self) -> dict[str, Any]:
        """Take the steps."""
        settings, training = self.settings, self.training
        self._announce()
        spread = self.spread
        objective: Any = Objective(training.model).to(self.accelerator.device)
        setup.spread_over(training, objective, spread)
        optimizer = optimizer_of(settings, training.groups)
        scheduler = setup.scheduler_of(settings, optimizer, self.steps)
        done = self._resume(optimizer, scheduler)
        optimizer = self.accelerator.prepare(optimizer)
        objective.train()
        self.trackers.start(resumed_from=done)
        parameters = [p for _, p in training.parameters]
        pieces = int(self.begun.get("pieces") or 1)
        stepper = Stepper(
            settings, self.accelerator, objective, training.train_rows, training.books, parameters, spread, self.stop,
            pieces,
        )  # fmt: skip
        evaluator = Evaluator(settings, self.accelerator, objective, training, spread)

        step = done
        ahead_of = ahead(self._steps(done), lambda planned: stepper.build(planned[2], planned[1]))
        update = Update(optimizer, settings.max_grad_norm or math.inf, self.accelerator)
        for (step, epoch, parts), batches in progress(ahead_of, stage="train", total=self.steps - done, unit="steps"):
            self._activate(epoch)
            sums, frames = stepper.take(step, epoch, parts, batches)
            if self.unfrozen and training.books > 1 and float(sums[1]):  # 0 where no frame of few had its turn
                self.unfrozen = False
                gradients = sub_talker_gradients(training.model)
                check_sub_talker(gradients, settings.sub_talker_loss_weight, training.books)
            norm = update(stepper.parameters, sums)
            optimizer.zero_grad(set_to_none=True)
            rate = scheduler.get_last_lr()[0]
            scheduler.step()
            self._settle()
            self.taken = Taken(step, rate, frames, Reading(torch.cat([sums, norm.to(sums).reshape(1)])))
            logged = step == 1 or step % settings.logging_steps == 0 or step == self.steps
            evaluated = step % self.eval_every == 0 or step == self.steps
            saved = stepper.stopping or (step % settings.save_steps == 0 and step < self.steps)
            if logged or evaluated or saved:
                self._settle()
            if logged:
                self._log("train", self.paths.training_log, self.window.record(step, epoch, rate, self.norm))
            reason = self._evaluate(evaluator, step, epoch, rate) if evaluated else None
            if saved:
                self._save(step, optimizer, scheduler, stepper.pieces)
            if stepper.stopping:
                self._stopped(step)
            if reason:
                say("train", f"stopping at step {step}: {reason}")
                break
        return self._finish(step)

    def _settle(self) -> None:
        """Take in what the last step gave: its losses and its norm, which the device has computed by now.

        Done when the next step is under way, or something is about to be said or kept: a GPU is never waited for
        otherwise.
        """
        taken, self.taken = self.taken, None
        if taken is None:
            return
        talker, sub_talker, self.norm = taken.reading.numbers()
        loss = talker + self.settings.sub_talker_loss_weight * sub_talker
        self.guards.admit(taken.step, loss, self.norm, taken.rate)
        losses = {"loss": loss, "talker_loss": talker, "sub_talker_loss": sub_talker}
        self.window.add({**losses, "frames": taken.frames})

    def _activate(self, epoch: int) -> None:
        """Train the parts of PROGRESSIVE_STAGES that are this epoch's."""
        active = progressive.activate(self.training.phases, epoch, self.training.groups)
        if active != self.active:
            say("train", f"epoch {epoch}: training {active}")
            self._settle()
            self.active, self.unfrozen = active, True
            self.guards.spikes.restart()  # other parameters have other gradients

    # ---- the data ----------------------------------------------------------------------------------------------------

    def _order(self, epoch: int, over: float) -> Order:
        settings, rows = self.settings, self.training.train_rows
        return epoch_order(
            rows,
            epoch=epoch,
            seed=settings.seed,
            batch_size=settings.batch_size,
            tokens_per_batch=settings.tokens_per_batch,
            only=admitted(rows, settings.curriculum, over),
        )

    def _steps(self, done: int) -> Iterator[tuple[int, int, list[Part]]]:
        """Yield (step from 1, epoch from 0, the step's parts) after step `done` until all are taken.

        What comes is a pure function of settings and data, so that a resumed run sees what it would have seen.
        """
        step, epoch = 0, 0
        while step < self.steps:
            order = self._order(epoch, step / self.steps)
            for start in range(0, len(order), self.parts):
                if step == self.steps:
                    return
                step += 1
                if step > done:
                    yield step, epoch, order[start : start + self.parts]
            epoch += 1

    # ---- evaluation and checkpoints ----------------------------------------------------------------------------------

    def _evaluate(self, evaluator: Evaluator, step: int, epoch: int, rate: float) -> str | None:
        """Measure, keep the checkpoint if it is the best so far, and say why to stop, if there is a reason."""
        measured = {"step": step, "epoch": epoch, **evaluator.losses(), "timestamp": logs.now()}
        self.guards.losses.evaluated(step, measured["loss"], rate)
        penalty = 0.0
        if math.isfinite(measured["loss"]):
            heard = evaluator.hear()
            measured.update(heard.record())
            if heard.penalty:
                warn("train", f"step {step}: {heard.summary()}")
            penalty = heard.penalty
        self.measured = measured
        self._log("validation", self.paths.validation_log, measured)
        if self.guards.patience.better(step, measured["loss"], penalty):
            self._export(self.paths.best)
        self.window.restart()
        return self.guards.patience.stop(measured["talker_loss"])

    def _log(self, kind: str, log: Path, record: dict[str, Any]) -> None:
        if self.ranks.first:
            logs.append(log, record)
        self.trackers.log(kind, record)

    def _export(self, directory: Path) -> None:
        """Write a checkpoint for stock `qwen_tts`, while training goes on."""
        if not (self.ranks.first or self.spread.sharded):
            return
        weights = self.training.exporter.snapshot()
        kept = {k: v for k, v in self.measured.items() if k not in ("timestamp", "said")}
        settings = self.settings
        progress = {**kept, "train_mode": settings.train_mode, "text_layout": settings.text_layout}
        if self.ranks.first:
            self.writer.submit(lambda: self.training.exporter.write(directory, weights, progress))

    def _save(self, step: int, optimizer: Any, scheduler: Any, pieces: int) -> None:
        """Write a checkpoint to go on from, while training goes on."""
        if not (self.ranks.first or self.spread.sharded):
            return
        state = {
            "key": self.training.key,
            "parts": self.parts,
            "accumulated": self.settings.gradient_accumulation_steps,
            "pieces": pieces,
            "scheduler": scheduler.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
            "guards": self.guards.state(),
            "window": self.window.steps,
            "measured": self.measured,
        }
        inner = getattr(optimizer, "optimizer", optimizer)
        if self.ranks.first:
            sizes = {log.name: log.stat().st_size for log in (self.paths.training_log, self.paths.validation_log)}
            state = {**state, "logs": sizes}
        taken = resume.snapshot(resume.Position(step, state), self.training.parameters, inner)
        if self.ranks.first:
            self.writer.submit(lambda: resume.save(self.paths.output, taken, self.settings.save_total_limit))

    def _stopped(self, step: int) -> NoReturn:
        """End after a signal to any of the processes, when the checkpoint is on disk."""
        self.writer.wait()
        self.ranks.wait()
        if not self.ranks.first:
            raise FollowedRank(StoppedBySignal.exit_code)
        name = self.stop.name or "a signal to another process"
        raise StoppedBySignal(f"stopped by {name} after step {step}; the same command goes on from it")

    def _resume(self, optimizer: torch.optim.Optimizer, scheduler: Any) -> int:
        """Go back to the newest checkpoint of this very run, if there is one. Returns the steps that are done."""
        path, both = self.checkpoint, (self.paths.training_log, self.paths.validation_log)
        if path is None:
            if self.ranks.first:
                resume.clear(self.paths.output)
                for log in both:
                    files.write_text(log, "")
            return 0
        state = resume.restore(path, self.training.parameters, optimizer).state
        resume.restore_rates(scheduler, state["scheduler"])
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.guards.load(self.begun["guards"])
        self.window = Window(state["window"])
        self.measured = state["measured"]
        done = int(state["step"])
        if done > self.steps or (done == self.steps and not self.measured):
            raise BadInput(
                f"RESUME={path}: it is at step {done}, and the run has {self.steps}; raise MAX_STEPS or NUM_EPOCHS"
            )
        if self.ranks.first:
            here = path.parent.resolve() == self.paths.output.resolve()
            for log in both:  # those of another run's checkpoint are where that run is
                resume.truncate_log(log, state["logs"][log.name] if here else 0)
        say("train", f"going on from {path.name}")
        return done

    def _checkpoint(self) -> tuple[Path | None, dict[str, Any]]:
        """The checkpoint to go on from, and what it says; nothing where there is none."""
        settings, key = self.settings, self.training.key
        path: Path | None = None
        if settings.resume not in ("auto", "never") and warm.adapter_of(settings) is None:
            path = resume.named(settings.resume)
        if not settings.force and settings.resume != "never":
            # What this very run has written since, whatever it began with.
            after = resume.step_of(path) if path else -1
            own = resume.newest(self.paths.output, key, after)
            if own is not None:
                return own, files.read_json(own / "state.json")
        if path is None:
            return None, {}
        begun = files.read_json(path / "state.json")
        if resume.step_of(self.paths.best, "training_state.json") != begun["guards"]["patience"]["best_step"]:
            begun["guards"].pop("patience")  # what was best then is not what lies here
        return path, begun

    # ---- beginning and end -------------------------------------------------------------------------------------------

    def _finish(self, step: int) -> dict[str, Any]:
        best = self.guards.patience
        if best.best_step == 0:
            raise TrainingStopped(
                f"no evaluation gave a finite loss (the last: {self.measured['loss']:.4g}); lower LEARNING_RATE"
            )
        self._export(self.paths.last)
        self.writer.wait()
        self.ranks.wait()
        last = self.measured["loss"]
        say("train", f"{step} steps; best loss {best.best:.4f} at step {best.best_step}, last {last:.4f}")
        return {
            "steps": step,
            "best_step": best.best_step,
            "best_loss": best.best,
            "last_loss": last,
            "skipped_steps": self.guards.finite.skipped,
            "trained_parameters": {g.name: g.size for g in self.training.groups},
        }

    def _announce(self) -> None:
        training = self.training
        total = sum(p.numel() for p in training.model.parameters())
        parts = ", ".join(f"{g.name} {g.size:,} at {g.rate:g}" for g in training.groups)
        where = f"{self.accelerator.device} ({self.accelerator.mixed_precision})"
        say("train", f"{len(training.train_rows)} rows, {int(training.train_rows.frames.sum())} frames")
        say("train", f"{self.steps} steps, {self.per_epoch} an epoch, validated every {self.eval_every}")
        say("train", f"trains {parts} of {total:,} parameters on {where}")
        say("train", f"speakers: {', '.join(sorted(training.exporter.speakers))}")
        begin = training.phases[-2].until if len(training.phases) > 1 else None
        if begin and self.steps <= begin * self.per_epoch and not self.settings.curriculum:
            warn("train", f"the last of PROGRESSIVE_STAGES begins after {begin} epochs, and the run ends before")
        for name, row in training.exporter.languages.items():
            say("train", f"{name} is new to the base and gets row {row} of the codec embedding")
        if len(training.eval_rows) == 0:
            say("train", "no validation rows: the best checkpoint is chosen by the loss on training rows")
