"""Losses and gradients of one step: over its micro-batches (parts) and processes, within the available memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from job.config.settings import Settings
from job.core.console import say, warn
from job.core.errors import TrainingStopped, first_line
from job.core.out_of_memory import is_out_of_memory
from job.core.seeds import seed_of
from job.core.stopping import StopRequest
from job.fast import adapters, compiled
from job.loss.batch import Batch
from job.train.passes import Division, Pass
from job.train.schedule import Part, Planned
from job.train.setup import Training
from job.train.spread import GradientSum, Spread

#: The passes of a step, with their batches.
Built = list[tuple[Pass, Batch]]
#: Advice for when memory runs out.
LESS_MEMORY = "set GRADIENT_CHECKPOINTING=true, lower MAX_SECONDS or BATCH_SIZE, or take TRAIN_MODE=lora"


class Stepper:
    """Forward and backward over the parts of a step.

    Every term of the loss has the same weight, whichever part it is in and whichever process computes it. Randomness in
    a pass depends only on SEED, step and part: a restart does not change it, nor, on a CPU, the number of processes.
    `division` says how parts are computed together or in pieces; it gets smaller when memory runs out. `stop` is
    checked after every step, so that all processes stop at the same step.
    """

    def __init__(
        self,
        settings: Settings,
        accelerator: Any,
        objective: Any,
        training: Training,
        spread: Spread,
        stop: StopRequest,
        division: Division | None = None,
    ) -> None:
        self._settings = settings
        self._accelerator = accelerator
        self._objective = objective
        self._rows = training.train_rows
        self._codebooks = training.codebooks
        self._all = [parameter for _, parameter in training.parameters]
        self._spread = spread
        self._stop = stop
        self._sum = GradientSum(spread.ranks, [])
        self._broken = ""
        self.division = division or Division()
        self.stopping = False

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that are trained at the moment (PROGRESSIVE_STAGES)."""
        return [p for p in self._all if p.requires_grad]

    def build(self, planned: Planned) -> Built:
        """Build the batches of this process's passes. Thread-safe."""
        if self._accelerator.device.type == "cuda":
            torch.cuda.set_device(self._accelerator.device)  # a new thread starts on the first GPU
        return [(one, self._batch(one.rows, planned.epoch)) for one in self._passes(planned)]

    def take(self, planned: Planned, built: Built) -> tuple[torch.Tensor, int]:
        """Compute the step's gradients into the parameters. `stopping` then says whether this is the last step.

        Args:
            built: its batches, from `build`.

        Returns:
            (2,) fp64 on the device, the talker's and the sub-talker's loss in nats per code; and the number of frames.

        Raises:
            TrainingStopped: a single sample does not fit in memory.
        """
        whole = [] if self._spread.sharded else self.parameters  # FSDP sums gradients in each pass
        if list(map(id, whole)) != list(map(id, self._sum.parameters)):
            self._sum = GradientSum(self._spread.ranks, whole)
        while True:
            sums = self._attempt(planned, built)
            wanted = sums is None, self._stop.name is not None, bool(self._broken)
            again, self.stopping, broken = self._sum.finish(*wanted)
            if sums is not None and not again:
                break
            adapters.forget(self._objective)
            for parameter in self._all:  # this attempt's gradients
                parameter.grad = None
            if broken:
                self._uncompile(planned.step)
            else:
                self._divide(planned)
        return self._spread.ranks.sums(sums), self._frames(planned.parts)

    def _attempt(self, planned: Planned, built: Built) -> torch.Tensor | None:
        """Run this process's share of the step, backward included: (2,) fp64 losses.

        Returns None if memory ran out, or if compiled code failed, and then why in `_broken`.
        """
        step, parts = planned.step, planned.parts
        frames = self._frames(parts)
        talker_terms = frames + sum(len(rows) for rows in parts)  # first code of every frame, and every end
        sub_terms = max(1, frames * (self._codebooks - 1))
        weight, scale = self._settings.sub_talker_loss_weight, self._spread.loss_scale
        device = self._accelerator.device
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        try:
            for one, batch, last in self._batches(planned, built):
                torch.manual_seed(seed_of(self._settings.seed, step, one.part, one.piece))
                with self._accelerator.autocast():
                    losses = self._objective(batch.to(device))
                talker, sub_talker = losses.talker / talker_terms, losses.sub_talker / sub_terms
                share = scale if one.counts else 0.0
                loss = share * (talker + weight * sub_talker)
                if last:
                    self._sum.watch()
                if loss.requires_grad:  # no gradient if only the sub-talker is trained and none of its frames is chosen
                    loss.backward()
                if one.counts:
                    sums += torch.stack([talker.detach(), sub_talker.detach()])
        except Exception as error:  # compilers may raise anything
            if not is_out_of_memory(error):
                if not compiled.failed(self._objective, error):
                    raise
                self._broken = first_line(error)
                return None
            if self._spread.sharded:  # the others wait inside a collective and cannot retry
                raise self._out_of_memory(step, "few") from error
            return None
        return sums

    def _batches(self, planned: Planned, built: Built) -> Iterator[tuple[Pass, Batch, bool]]:
        """Yield each pass of this process with its batch, and whether it is the last."""
        passes = self._passes(planned)
        ready = [one for one, _ in built] == passes  # not if memory has run out since they were built
        for index, one in enumerate(passes):
            batch = built[index][1] if ready else self._batch(one.rows, planned.epoch)
            yield one, batch, index == len(passes) - 1

    def _passes(self, planned: Planned) -> list[Pass]:
        return self.division.passes(self._spread.mine(planned.parts), self._length(planned))

    def _length(self, planned: Planned) -> Callable[[int], int]:
        return lambda row: self._rows.positions(row, planned.epoch)

    def _batch(self, rows: Part, epoch: int) -> Batch:
        batch = self._rows.batch(rows, epoch, self._settings.sub_talker_frame_fraction)
        if self._spread.sharded and not len(batch.chosen):
            # Every process must reduce the same gradients in every pass, or they deadlock: one frame with weight 0.
            batch = replace(batch, chosen=batch.chosen.new_zeros(1), chosen_scale=0.0)
        # Page-locked memory is copied to a GPU asynchronously.
        return batch.pin_memory() if self._accelerator.device.type == "cuda" else batch

    @staticmethod
    def _out_of_memory(step: int, samples: str) -> TrainingStopped:
        return TrainingStopped(f"out of GPU memory at step {step}, with {samples} samples at a time: {LESS_MEMORY}")

    def _divide(self, planned: Planned) -> None:
        """Take smaller passes, so that the step can be retried."""
        world = self._spread.ranks.world
        shares = [planned.parts[rank::world] for rank in range(world)]
        smaller = self.division.smaller(shares, self._length(planned))
        if smaller is None:
            raise self._out_of_memory(planned.step, "one")
        self.division = smaller
        gc.collect()
        torch.cuda.empty_cache()
        say(
            "train",
            f"out of GPU memory at step {planned.step}: batches are computed {smaller} from now on, which gives the "
            "same result",
        )

    def _uncompile(self, step: int) -> None:
        """Compute without compiled code from now on, in all processes, after it failed in one (TORCH_COMPILE)."""
        reason = next(filter(None, self._spread.ranks.gather(self._broken)))
        self._broken = ""
        compiled.give_up(self._objective)
        warn(
            "train",
            f"TORCH_COMPILE: layers stay uncompiled, and step {step} is computed again, with the same result: {reason}",
        )

    def _frames(self, parts: Sequence[Part]) -> int:
        return int(sum(int(self._rows.frames[rows].sum()) for rows in parts))
