"""The training stage, from prepared data to `output/best` and `output/last`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from job import files
from job.console import progress, say
from job.errors import BadInput, TrainingStopped
from job.models import base_directory, load_model, resolve_device, resolve_precision
from job.prepare.dataset import read_speakers, read_split
from job.settings import Settings
from job.train import adapt
from job.train.batch import Batch
from job.train.checkpoint import export
from job.train.data import Rows, epoch_order
from job.train.guards import FiniteGuard, Patience
from job.train.layout import SpecialIds
from job.train.objective import Objective

#: Rows that stand in for a validation split when there is none.
STAND_IN_ROWS = 32
#: Evaluations in a run unless EVAL_STEPS says otherwise.
MOST_EVALUATIONS = 20


def train(settings: Settings) -> dict[str, Any]:
    """Run the stage.

    Raises:
        BadInput: the prepared data does not fit the model.
        TrainingStopped: the loss is not a number, or no evaluation gave a finite loss.
    """
    with _accelerator(settings) as accelerator:
        return _Run(settings, accelerator).run()


@contextmanager
def _accelerator(settings: Settings) -> Iterator[Any]:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import set_seed

    device = resolve_device(settings)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    set_seed(settings.seed)
    try:
        yield Accelerator(mixed_precision=resolve_precision(settings, device), cpu=device.type == "cpu")
    finally:
        AcceleratorState._reset_state(True)  # it is global; another run in this process may want another precision


class _Run:
    """One training run: what the steps share."""

    def __init__(self, settings: Settings, accelerator: Any) -> None:
        self.settings = settings
        self.paths = settings.paths
        self.accelerator = accelerator
        self.device = accelerator.device
        self.base = base_directory(settings)
        loaded = load_model(self.base, torch.device("cpu"), torch.float32, settings.attn_implementation)
        self.model: Any = loaded.model
        self.model.speech_tokenizer = None  # trained on codes; the codec would only take memory
        self.speakers = read_speakers(self.paths)
        tokenizer = loaded.processor.tokenizer
        ids = SpecialIds.from_config(files.read_json(self.base / "config.json"))

        def rows(split: str) -> Rows:
            vectors = {name: vector.float().numpy() for name, vector in self.speakers.items()}
            table = read_split(self.paths, split)
            return Rows(
                table, ids, lambda texts: tokenizer(texts)["input_ids"] if texts else [], vectors, settings.text_layout
            )

        self.train_rows = rows("train")
        self.eval_rows = rows("validation")
        if len(self.train_rows) == 0:
            raise BadInput(f"{self.paths.prepared} has no training rows; run prepare first")
        self.groups = adapt.adapt(self.model, settings)
        if self.accelerator.mixed_precision == "bf16" and settings.train_mode != "full":
            self._lower_frozen_weights()
        if settings.gradient_checkpointing:
            self.model.talker.gradient_checkpointing_enable({"use_reentrant": False})
        # What the checkpoint is saved in: as trained, so that what was measured is what is published.
        self.saved_dtype = torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else torch.float32
        self.finite = FiniteGuard()
        self.patience = Patience(settings.early_stopping_patience, settings.target_loss)

    def _lower_frozen_weights(self) -> None:
        """Keep what is not trained in bf16: autocast computes in it anyway, and it halves the memory."""
        for parameter in self.model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()

    def run(self) -> dict[str, Any]:
        settings = self.settings
        per_epoch = math.ceil(len(self._order(0)) / settings.gradient_accumulation_steps)
        steps = settings.max_steps or settings.num_epochs * per_epoch
        eval_every = settings.eval_steps or max(per_epoch, math.ceil(steps / MOST_EVALUATIONS))
        self._announce(steps, per_epoch)

        optimizer = self._optimizer()
        scheduler = self._scheduler(optimizer, steps)
        objective, optimizer = self.accelerator.prepare(Objective(self.model), optimizer)
        objective.train()
        self._start_logs()

        logged = _Window()
        plan = self._steps(steps)
        for step, epoch, batches in progress(plan, stage="train", total=steps, unit="steps"):
            losses = self._accumulate(objective, batches)
            norm = self._clip(objective)
            if self.finite.admit(step, losses["loss"], norm):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            rate = scheduler.get_last_lr()[0]
            scheduler.step()
            logged.add(losses)
            if step == 1 or step % settings.logging_steps == 0 or step == steps:
                self._log(self.paths.training_log, logged.record(step, epoch, rate, norm))
            if step % eval_every == 0 or step == steps:
                measured = self._evaluate(objective, step, epoch)
                if self.patience.better(step, measured["loss"]):
                    self._export(self.paths.best, measured)
                reason = self.patience.stop(measured["talker_loss"])
                logged.restart()
                if reason:
                    say("train", f"stopping at step {step}: {reason}")
                    break
        return self._finish(step, measured)

    def _order(self, epoch: int) -> list[list[int]]:
        settings = self.settings
        return epoch_order(
            self.train_rows,
            epoch=epoch,
            seed=settings.seed,
            batch_size=settings.batch_size,
            tokens_per_batch=settings.tokens_per_batch,
        )

    def _steps(self, steps: int) -> Iterator[tuple[int, int, list[Batch]]]:
        """Yield (step from 1, epoch from 0, the step's batches) until `steps` are done."""
        step, epoch = 0, 0
        while step < steps:
            order = self._order(epoch)
            size = self.settings.gradient_accumulation_steps
            for start in range(0, len(order), size):
                if step == steps:
                    return
                step += 1
                yield step, epoch, [self.train_rows.batch(rows, epoch) for rows in order[start : start + size]]
            epoch += 1

    def _accumulate(self, objective: Any, batches: list[Batch]) -> dict[str, Any]:
        """Forward and backward over a step's batches, each term weighing the same whatever batch it is in."""
        talker_terms = sum(len(b.labels) for b in batches)
        frames = sum(b.target_frames for b in batches)
        sub_terms = max(1, frames * (batches[0].frames.shape[1] - 1))
        weight = self.settings.sub_talker_loss_weight
        talker = sub_talker = 0.0
        for batch in batches:
            losses = objective(batch.to(self.device), self.settings.sub_talker_frame_fraction)
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

    def _optimizer(self) -> torch.optim.Optimizer:
        groups = []
        for group in self.groups:
            matrices = [p for _, p in group.parameters if p.ndim > 1]
            vectors = [p for _, p in group.parameters if p.ndim <= 1]  # norms and biases are not decayed
            groups.append({"params": matrices, "lr": group.rate, "weight_decay": self.settings.weight_decay})
            groups.append({"params": vectors, "lr": group.rate, "weight_decay": 0.0})
        fused = self.settings.optimizer == "adamw_fused"
        return torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.95), fused=fused or None)

    def _scheduler(self, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        from transformers import get_scheduler

        name = {"constant": "constant_with_warmup"}.get(self.settings.lr_scheduler, self.settings.lr_scheduler)
        warmup = self.settings.warmup_steps
        warmup = min(100, round(0.05 * steps)) if warmup is None else min(warmup, steps)
        return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)

    def _evaluate(self, objective: Any, step: int, epoch: int) -> dict[str, Any]:
        """Loss over the validation rows (or stand-ins), every row once, nothing random."""
        held_out = len(self.eval_rows) > 0
        rows = self.eval_rows if held_out else self.train_rows
        count = len(rows) if held_out else min(STAND_IN_ROWS, len(rows))
        order = sorted(range(count), key=rows.length)
        size = self.settings.batch_size
        talker = sub_talker = terms = sub_terms = 0.0
        objective.eval()
        with torch.no_grad():
            for start in range(0, count, size):
                losses = objective(rows.batch(order[start : start + size], 0).to(self.device))
                talker, terms = talker + losses.talker.double(), terms + losses.talker_terms
                sub_talker, sub_terms = sub_talker + losses.sub_talker.double(), sub_terms + losses.sub_talker_terms
        objective.train()
        measured = {"talker_loss": float(talker) / terms, "sub_talker_loss": float(sub_talker) / max(1, sub_terms)}
        loss = measured["talker_loss"] + self.settings.sub_talker_loss_weight * measured["sub_talker_loss"]
        split = "validation" if held_out else "train"
        record = {"step": step, "epoch": epoch, "loss": loss, **measured, "split": split, "timestamp": _now()}
        self._log(self.paths.validation_log, record)
        return record

    def _export(self, directory: Path, measured: dict[str, Any]) -> None:
        export(
            directory,
            model=self.model,
            base=self.base,
            speakers=self.speakers,
            settings=self.settings,
            dtype=self.saved_dtype,
            progress={**measured, "train_mode": self.settings.train_mode, "text_layout": self.settings.text_layout},
        )

    def _finish(self, step: int, measured: dict[str, Any]) -> dict[str, Any]:
        if self.patience.best_step == 0:
            raise TrainingStopped(
                f"no evaluation gave a finite loss (the last: {measured['loss']:.4g}); lower LEARNING_RATE"
            )
        self._export(self.paths.last, measured)
        say(
            "train",
            f"{step} steps; best loss {self.patience.best:.4f} at step {self.patience.best_step}, "
            f"last {measured['loss']:.4f}; {self.paths.best}",
        )
        return {
            "steps": step,
            "best_step": self.patience.best_step,
            "best_loss": self.patience.best,
            "last_loss": measured["loss"],
            "skipped_steps": self.finite.skipped,
            "trained_parameters": {g.name: g.size for g in self.groups},
        }

    def _announce(self, steps: int, per_epoch: int) -> None:
        total = sum(p.numel() for p in self.model.parameters())
        parts = ", ".join(f"{g.name} {g.size:,} at {g.rate:g}" for g in self.groups)
        say("train", f"{len(self.train_rows)} rows, {int(self.train_rows.frames.sum())} frames, {steps} steps")
        say("train", f"trains {parts} of {total:,} parameters on {self.device} ({self.accelerator.mixed_precision})")
        if len(self.eval_rows) == 0:
            say("train", "no validation rows: the best checkpoint is chosen by the loss on training rows")
        say("train", f"{per_epoch} steps an epoch, {len(self.speakers)} speakers: {', '.join(sorted(self.speakers))}")

    def _start_logs(self) -> None:
        for log in (self.paths.training_log, self.paths.validation_log):
            files.write_text(log, "")

    def _log(self, log: Path, record: dict[str, Any]) -> None:
        """Append one line; a reader never sees half of it because it is one write."""
        with open(log, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")


class _Window:
    """Averages the steps between two log lines."""

    def __init__(self) -> None:
        self._steps: list[dict[str, Any]] = []
        self.restart()

    def restart(self) -> None:
        """Start the clock again, so that evaluations do not count as training time."""
        self._started, self._frames = time.monotonic(), 0

    def add(self, losses: dict[str, Any]) -> None:
        """Take in a step."""
        self._steps.append(losses)
        self._frames += losses["frames"]

    def record(self, step: int, epoch: int, rate: float, norm: float) -> dict[str, Any]:
        """The log line, and start over. Steps that were skipped show as what they were."""
        means = {k: float(np.mean([s[k] for s in self._steps])) for k in ("loss", "talker_loss", "sub_talker_loss")}
        seconds = max(time.monotonic() - self._started, 1e-9)
        speed = round(self._frames / seconds, 1)
        self._steps = []
        self.restart()
        return {
            "step": step,
            "epoch": epoch,
            **means,
            "learning_rate": rate,
            "grad_norm": norm,
            "frames_per_second": speed,
            "timestamp": _now(),
        }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
