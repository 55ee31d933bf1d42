"""The training stage, from prepared data to `output/best` and `output/last`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from job import files
from job.console import progress, say, warn
from job.errors import BadInput, StoppedBySignal, TrainingStopped
from job.settings import Settings
from job.train import logs, progressive, resume, setup, warm
from job.train.batch import Batch
from job.train.data import admitted, epoch_order
from job.train.guards import Guards, check_sub_talker, sub_talker_gradients
from job.train.logs import Window
from job.train.objective import Objective
from job.train.stopping import StopRequest
from job.train.trackers import Trackers

#: Rows that stand in for a validation split when there is none.
STAND_IN_ROWS = 32
#: Evaluations in a run unless EVAL_STEPS says otherwise.
MOST_EVALUATIONS = 20
#: Evaluations without a better one that end a run with held-out rows, unless EARLY_STOPPING_PATIENCE says otherwise.
DEFAULT_PATIENCE = 5


def train(settings: Settings) -> dict[str, Any]:
    """Run the stage.

    Raises:
        BadInput: the prepared data does not fit the model or the settings.
        TrainingStopped: the loss is not a number, or no evaluation gave a finite loss.
        StoppedBySignal: SIGTERM or SIGINT; the same command goes on from the checkpoint that was written.
    """
    with (
        setup.accelerator_of(settings) as accelerator,
        StopRequest() as stop,
        Trackers(settings, accelerator) as trackers,
    ):
        return _Run(settings, accelerator, stop, trackers).run()


class _Run:
    """One training run: what the steps share."""

    def __init__(self, settings: Settings, accelerator: Any, stop: StopRequest, trackers: Trackers) -> None:
        self.settings = settings
        self.paths = settings.paths
        self.accelerator = accelerator
        self.stop = stop
        self.trackers = trackers
        self.training = setup.set_up(settings, accelerator)
        held_out = len(self.training.eval_rows) > 0
        patience = settings.early_stopping_patience
        if patience is None and held_out:
            patience = DEFAULT_PATIENCE
        self.guards = Guards(settings.max_grad_norm, patience or None, settings.target_loss)
        self.window = Window()
        self.measured: dict[str, Any] = {}
        self.active = "all"
        self.unfrozen = True  # parameters that have not been trained before are about to be
        # The first epoch's length stands for all: batches by TOKENS_PER_BATCH may differ by one or two.
        batches = len(self._order(0, 1.0))
        self.per_epoch = math.ceil(batches / settings.gradient_accumulation_steps)
        self.steps = settings.max_steps or settings.num_epochs * self.per_epoch
        self.eval_every = settings.eval_steps or max(self.per_epoch, math.ceil(self.steps / MOST_EVALUATIONS))

    def run(self) -> dict[str, Any]:
        """Take the steps."""
        settings, training = self.settings, self.training
        self._announce()
        optimizer = setup.optimizer_of(settings, training.groups)
        scheduler = setup.scheduler_of(settings, optimizer, self.steps)
        done = self._resume(optimizer, scheduler)
        objective: Any
        objective, optimizer = self.accelerator.prepare(Objective(training.model), optimizer)
        objective.train()
        self.trackers.start(resumed_from=done)

        step = done
        for step, epoch, batches in progress(self._steps(done), stage="train", total=self.steps - done, unit="steps"):
            losses = self._accumulate(objective, batches)
            if self.unfrozen:
                self.unfrozen = False
                gradients = sub_talker_gradients(training.model)
                check_sub_talker(gradients, settings.sub_talker_loss_weight, batches[0].frames.shape[1])
            norm = self._clip(objective)
            rate = scheduler.get_last_lr()[0]
            # With fp16 the scaler skips such a step by itself, and must see it to lower its scale.
            if self.guards.admit(step, losses["loss"], norm, rate) or self.accelerator.scaler is not None:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            scheduler.step()
            self.window.add(losses)
            if step == 1 or step % settings.logging_steps == 0 or step == self.steps:
                self._log("train", self.paths.training_log, self.window.record(step, epoch, rate, norm))
            reason = None
            if step % self.eval_every == 0 or step == self.steps:
                reason = self._evaluate(objective, step, epoch, rate)
            if self.stop.name or (step % settings.save_steps == 0 and step < self.steps):
                self._save(step, optimizer, scheduler)
            if self.stop.name:
                raise StoppedBySignal(
                    f"stopped by {self.stop.name} after step {step}; the same command goes on from it"
                )
            if reason:
                say("train", f"stopping at step {step}: {reason}")
                break
        return self._finish(step)

    # ---- the data ----------------------------------------------------------------------------------------------------

    def _order(self, epoch: int, over: float) -> list[list[int]]:
        settings, rows = self.settings, self.training.train_rows
        return epoch_order(
            rows,
            epoch=epoch,
            seed=settings.seed,
            batch_size=settings.batch_size,
            tokens_per_batch=settings.tokens_per_batch,
            only=admitted(rows, settings.curriculum, over),
        )

    def _steps(self, done: int) -> Iterator[tuple[int, int, list[Batch]]]:
        """Yield (step from 1, epoch from 0, the step's batches) after step `done` until all are taken.

        What comes is a pure function of settings and data, so that a resumed run sees what it would have seen.
        """
        step, epoch = 0, 0
        size = self.settings.gradient_accumulation_steps
        while step < self.steps:
            order = self._order(epoch, step / self.steps)
            active = progressive.activate(self.training.phases, epoch, self.training.groups)
            if active != self.active:
                say("train", f"epoch {epoch}: training {active}")
                self.active, self.unfrozen = active, True
                self.guards.spikes.restart()  # other parameters have other gradients
            for start in range(0, len(order), size):
                if step == self.steps:
                    return
                step += 1
                if step > done:
                    parts = order[start : start + size]
                    yield step, epoch, [self.training.train_rows.batch(rows, epoch) for rows in parts]
            epoch += 1

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _accumulate(self, objective: Any, batches: list[Batch]) -> dict[str, Any]:
        """Forward and backward over a step's batches, each term weighing the same whatever batch it is in."""
        talker_terms = sum(len(b.labels) for b in batches)
        frames = sum(b.target_frames for b in batches)
        sub_terms = max(1, frames * (batches[0].frames.shape[1] - 1))
        weight = self.settings.sub_talker_loss_weight
        talker = sub_talker = 0.0
        for batch in batches:
            losses = objective(batch.to(self.accelerator.device), self.settings.sub_talker_frame_fraction)
            mean_talker, mean_sub = losses.talker / talker_terms, losses.sub_talker / sub_terms
            self.accelerator.backward(mean_talker + weight * mean_sub)
            talker = talker + mean_talker.detach()
            sub_talker = sub_talker + mean_sub.detach()
        values = {"talker_loss": float(talker), "sub_talker_loss": float(sub_talker), "frames": frames}
        return {"loss": values["talker_loss"] + weight * values["sub_talker_loss"], **values}

    def _clip(self, objective: Any) -> float:
        """Clip the gradients; returns their norm before."""
        bound = self.settings.max_grad_norm or math.inf
        trained = [p for p in objective.parameters() if p.requires_grad]
        return float(self.accelerator.clip_grad_norm_(trained, bound))

    # ---- evaluation and checkpoints ----------------------------------------------------------------------------------

    def _evaluate(self, objective: Any, step: int, epoch: int, rate: float) -> str | None:
        """Measure, keep the checkpoint if it is the best so far, and say why to stop, if there is a reason."""
        measured = self._validate(objective, step, epoch)
        self.guards.losses.evaluated(step, measured["loss"], rate)
        penalty = 0.0
        if math.isfinite(measured["loss"]):
            heard = self.training.probe.run(self.training.model, self.accelerator.autocast)
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

    def _validate(self, objective: Any, step: int, epoch: int) -> dict[str, Any]:
        """Loss over the validation rows (or stand-ins), every row once, nothing random."""
        held_out = len(self.training.eval_rows) > 0
        rows = self.training.eval_rows if held_out else self.training.train_rows
        count = len(rows) if held_out else min(STAND_IN_ROWS, len(rows))
        order = sorted(range(count), key=rows.length)
        size = self.settings.batch_size
        talker = sub_talker = terms = sub_terms = 0.0
        objective.eval()
        with torch.no_grad():
            for start in range(0, count, size):
                losses = objective(rows.batch(order[start : start + size], 0).to(self.accelerator.device))
                talker, terms = talker + losses.talker.double(), terms + losses.talker_terms
                sub_talker, sub_terms = sub_talker + losses.sub_talker.double(), sub_terms + losses.sub_talker_terms
        objective.train()
        measured = {"talker_loss": float(talker) / terms, "sub_talker_loss": float(sub_talker) / max(1, sub_terms)}
        loss = measured["talker_loss"] + self.settings.sub_talker_loss_weight * measured["sub_talker_loss"]
        split = "validation" if held_out else "train"
        return {"step": step, "epoch": epoch, "loss": loss, **measured, "split": split, "timestamp": logs.now()}

    def _log(self, kind: str, log: Path, record: dict[str, Any]) -> None:
        logs.append(log, record)
        self.trackers.log(kind, record)

    def _export(self, directory: Path) -> None:
        """Write a checkpoint for stock `qwen_tts`."""
        kept = {k: v for k, v in self.measured.items() if k not in ("timestamp", "said")}
        settings = self.settings
        progress = {**kept, "train_mode": settings.train_mode, "text_layout": settings.text_layout}
        self.training.exporter.write(directory, progress)

    def _save(self, step: int, optimizer: Any, scheduler: Any) -> None:
        """Write a checkpoint to go on from."""
        state = {
            "key": self.training.key,
            "scheduler": scheduler.state_dict(),
            "guards": self.guards.state(),
            "window": self.window.steps,
            "measured": self.measured,
            "logs": {log.name: log.stat().st_size for log in (self.paths.training_log, self.paths.validation_log)},
        }
        inner = getattr(optimizer, "optimizer", optimizer)
        position = resume.Position(step, state)
        resume.save(self.paths.output, position, self.training.parameters, inner, self.settings.save_total_limit)

    def _resume(self, optimizer: torch.optim.Optimizer, scheduler: Any) -> int:
        """Go back to the newest checkpoint of this very run, if there is one. Returns the steps that are done."""
        path = self._checkpoint()
        if path is None:
            resume.clear(self.paths.output)
            for log in (self.paths.training_log, self.paths.validation_log):
                files.write_text(log, "")
            return 0
        state = resume.restore(path, self.training.parameters, optimizer).state
        scheduler.load_state_dict(state["scheduler"])
        self.guards.load(state["guards"])
        self.window = Window(state["window"])
        self.measured = state["measured"]
        for log in (self.paths.training_log, self.paths.validation_log):
            resume.truncate_log(log, state["logs"][log.name])
        say("train", f"going on from {path.name}")
        return int(state["step"])

    def _checkpoint(self) -> Path | None:
        wanted = self.settings.resume
        if self.settings.force or wanted == "never" or (wanted != "auto" and warm.is_adapter(Path(wanted))):
            return None
        if wanted == "auto":
            return resume.newest(self.paths.output, self.training.key)
        if not (Path(wanted) / "state.json").is_file():
            raise BadInput(
                f"RESUME={wanted}: neither a checkpoint of this job nor an adapter; use auto, never or a path"
            )
        return Path(wanted)

    # ---- beginning and end -------------------------------------------------------------------------------------------

    def _finish(self, step: int) -> dict[str, Any]:
        best = self.guards.patience
        if best.best_step == 0:
            raise TrainingStopped(
                f"no evaluation gave a finite loss (the last: {self.measured['loss']:.4g}); lower LEARNING_RATE"
            )
        self._export(self.paths.last)
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
        for name, row in training.exporter.languages.items():
            say("train", f"{name} is new to the base and gets row {row} of the codec embedding")
        if len(training.eval_rows) == 0:
            say("train", "no validation rows: the best checkpoint is chosen by the loss on training rows")
