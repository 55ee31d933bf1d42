"""Evaluation of the model during training: validation loss, and the sentences it says."""

from __future__ import annotations

from typing import Any

import torch

from job.config.settings import Settings
from job.train.passes import JOINED_IN_EVALUATION, join
from job.train.probe_rules import Heard
from job.train.setup import Training
from job.train.spread import Spread

#: Number of training rows evaluated if there is no validation split.
STAND_IN_ROWS = 32


class Evaluator:
    """Evaluates `objective` with its current weights."""

    def __init__(
        self, settings: Settings, accelerator: Any, objective: Any, training: Training, spread: Spread
    ) -> None:
        self._settings = settings
        self._accelerator = accelerator
        self._objective = objective
        self._training = training
        self._spread = spread

    def losses(self) -> dict[str, Any]:
        """Compute the loss over the validation rows (or stand-ins), in nats per code: each row once, deterministic."""
        training = self._training
        held_out = len(training.eval_rows) > 0
        rows = training.eval_rows if held_out else training.train_rows
        count = len(rows) if held_out else min(STAND_IN_ROWS, len(rows))
        order = sorted(range(count), key=rows.length)
        size = self._settings.batch_size
        batches = [order[start : start + size] for start in range(0, count, size)]
        device = self._accelerator.device
        if device.type == "cuda":
            groups = join(batches, lambda row: rows.positions(row, 0), JOINED_IN_EVALUATION)
            batches = [[row for index in group for row in batches[index]] for group in groups]
        sums = torch.zeros(4, dtype=torch.float64, device=device)
        self._objective.eval()
        with torch.no_grad():
            for _, chosen, counts in self._spread.mine(batches):
                with self._accelerator.autocast():
                    found = self._objective(rows.batch(chosen, 0).to(device))
                if counts:
                    sums[0] += found.talker
                    sums[1] += found.sub_talker
                    sums[2] += found.talker_terms
                    sums[3] += found.sub_talker_terms
        self._objective.train()
        if self._spread.sharded:  # the parts around the layers stay gathered, waiting for a backward pass
            self._objective.reshard()
        talker, sub_talker, terms, sub_terms = self._spread.ranks.sums(sums).tolist()
        measured = {"talker_loss": talker / terms, "sub_talker_loss": sub_talker / max(1.0, sub_terms)}
        loss = measured["talker_loss"] + self._settings.sub_talker_loss_weight * measured["sub_talker_loss"]
        return {"loss": loss, **measured, "split": "validation" if held_out else "train"}

    def hear(self) -> Heard:
        """Run the probe in the first process and return its findings in all processes.

        A sharded model says nothing: stock `generate` needs unsharded weights.
        """
        if self._spread.sharded:
            return Heard()
        training = self._training
        return self._spread.ranks.first_does(lambda: training.probe.run(training.model, self._accelerator.autocast))
