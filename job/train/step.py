"""One step's losses and gradients: over its parts, over the processes, and within the memory there is."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from job.config.settings import Settings
from job.core.console import say
from job.core.errors import TrainingStopped
from job.core.out_of_memory import is_out_of_memory
from job.core.stopping import StopRequest
from job.train.batch import Batch
from job.train.schedule import Part, Planned
from job.train.seeds import seed_of
from job.train.setup import Training
from job.train.spread import GradientSum, Spread

#: What to do where memory runs out.
LESS_MEMORY = "set GRADIENT_CHECKPOINTING=true, lower MAX_SECONDS or BATCH_SIZE, or take TRAIN_MODE=lora"


class Stepper:
    """Forward and backward over the parts of a step.

    Every term of the loss weighs the same, whatever part it is in and whoever computes it. What is random in a part
    follows from SEED, step and part alone: neither the number of processes nor a restart changes it. A part is cut into
    `pieces`, more than one once memory has run out. `stop` is asked after every step, so that all processes stop at the
    same one.
    """

    def __init__(
        self,
        settings: Settings,
        accelerator: Any,
        objective: Any,
        training: Training,
        spread: Spread,
        stop: StopRequest,
        pieces: int = 1,
    ) -> None:
        self._settings = settings
        self._accelerator = accelerator
        self._objective = objective
        self._rows = training.train_rows
        self._books = training.books
        self._all = [parameter for _, parameter in training.parameters]
        self._spread = spread
        self._stop = stop
        self._sum = GradientSum(spread.ranks, [])
        self.pieces = pieces
        self.stopping = False

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained at the moment (PROGRESSIVE_STAGES)."""
        return [p for p in self._all if p.requires_grad]

    def build(self, planned: Planned) -> list[Batch | None]:
        """The batches of the parts that this process takes; None where a part is cut into pieces. For any thread."""
        mine = self._spread.mine(planned.parts)
        if self.pieces > 1:
            return [None for _ in mine]
        if self._accelerator.device.type == "cuda":
            torch.cuda.set_device(self._accelerator.device)  # a thread of its own begins at the first GPU
        return [self._pinned(self._batch(rows, planned.epoch)) for _, rows, _ in mine]

    def take(self, planned: Planned, built: Sequence[Batch | None]) -> tuple[torch.Tensor, int]:
        """Leave the step's gradients in the parameters. `stopping` then says whether it is to be the last one.

        Args:
            built: its batches, from `build`.

        Returns:
            (2,) fp64 on the device, the talker's and the sub-talker's loss in nats a code; and how many frames.

        Raises:
            TrainingStopped: a single sample does not fit the memory.
        """
        whole = [] if self._spread.sharded else self.parameters  # what is cut up is added up in the passes
        if list(map(id, whole)) != list(map(id, self._sum.parameters)):
            self._sum = GradientSum(self._spread.ranks, whole)
        while True:
            sums = self._attempt(planned, built)
            short, self.stopping = self._sum.finish(sums is None, self._stop.name is not None)
            if sums is not None and not short:
                break
            self._halve(planned)
        return self._spread.ranks.sums(sums), self._frames(planned.parts)

    def _attempt(self, planned: Planned, built: Sequence[Batch | None]) -> torch.Tensor | None:
        """(2,) fp64 losses of this process's share of the step, their gradients taken; None when memory ran out."""
        step, parts = planned.step, planned.parts
        frames = self._frames(parts)
        talker_terms = frames + sum(len(rows) for rows in parts)  # every frame's first code, and every end
        sub_terms = max(1, frames * (self._books - 1))
        weight, scale = self._settings.sub_talker_loss_weight, self._spread.loss_scale
        device = self._accelerator.device
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        try:
            for part, piece, batch, counts, last in self._pieces(planned, built):
                torch.manual_seed(seed_of(self._settings.seed, step, part, piece))
                with self._accelerator.autocast():
                    losses = self._objective(batch.to(device))
                talker, sub_talker = losses.talker / talker_terms, losses.sub_talker / sub_terms
                share = scale if counts else 0.0
                loss = share * (talker + weight * sub_talker)
                if last:
                    self._sum.watch()
                if loss.requires_grad:  # not where only the sub-talker is trained, and no frame has its turn
                    loss.backward()
                if counts:
                    sums += torch.stack([talker.detach(), sub_talker.detach()])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if self._spread.sharded:  # the others are waiting within the pass, and cannot be asked to begin again
                raise self._out_of_memory(step, "few") from error
            return None
        return sums

    def _pieces(self, planned: Planned, built: Sequence[Batch | None]) -> Iterator[tuple[int, int, Batch, bool, bool]]:
        """(part, piece of it, batch, whether it counts, whether it is the last) of what this process computes."""
        mine = self._spread.mine(planned.parts)
        for (part, rows, counts), batch in zip(mine, built, strict=True):
            cuts = np.array_split(np.asarray(rows), min(self.pieces, len(rows)))
            for piece, cut in enumerate(cuts):
                if batch is None or self.pieces > 1:
                    batch = self._pinned(self._batch(cut.tolist(), planned.epoch))
                yield part, piece, batch, counts, part == mine[-1][0] and piece == len(cuts) - 1

    def _batch(self, rows: Part, epoch: int) -> Batch:
        batch = self._rows.batch(rows, epoch, self._settings.sub_talker_frame_fraction)
        if self._spread.sharded and not len(batch.chosen):
            # Processes add up the same gradients in every pass, or wait for each other: one frame that counts nothing.
            batch = replace(batch, chosen=batch.chosen.new_zeros(1), chosen_scale=0.0)
        return batch

    def _pinned(self, batch: Batch) -> Batch:
        """Where a GPU copies it from without anyone waiting."""
        return batch.pin_memory() if self._accelerator.device.type == "cuda" else batch

    @staticmethod
    def _out_of_memory(step: int, samples: str) -> TrainingStopped:
        return TrainingStopped(f"out of GPU memory at step {step}, with {samples} samples at a time: {LESS_MEMORY}")

    def _halve(self, planned: Planned) -> None:
        """Cut parts into twice as many pieces, and begin the step again."""
        step, most = planned.step, max(len(rows) for rows in planned.parts)
        if self.pieces >= most:
            raise self._out_of_memory(step, "one")
        self.pieces = min(2 * self.pieces, most)
        for parameter in self._all:
            parameter.grad = None
        gc.collect()
        torch.cuda.empty_cache()
        say(
            "train",
            f"out of GPU memory at step {step}: batches are computed in {self.pieces} pieces from now on, which gives "
            "the same result",
        )

    def _frames(self, parts: Sequence[Part]) -> int:
        return int(sum(int(self._rows.frames[rows].sum()) for rows in parts))
