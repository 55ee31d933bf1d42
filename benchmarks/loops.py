"""The loops that are measured in training: ours, as the job's loop takes its steps, and the naive one.

Every epoch is another one, as in a run: other samples share a batch, so that batches have other shapes. A loop that
replayed the same shapes would hide what kernels take that are planned, or memory that is fragmented, for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import common
import naive
import numpy as np
import torch

from job import fast
from job.config.optimizer_choice import trained_bytes
from job.config.settings import Settings
from job.demo import clips_directory
from job.estimate import activations
from job.estimate.activations import Load
from job.estimate.flops import Work
from job.fast.changes import Changes
from job.loss import layout
from job.loss.batch import Batch
from job.loss.objective import Objective
from job.loss.rows import Rows
from job.model.loading import load_model, resolve_precision
from job.optimizer import optimizers
from job.train import adapt, setup
from job.train.order import ahead, epoch_order
from job.train.update import Update

#: Dense bf16 FLOP/s of a GPU's data sheet, by a part of its name.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
TOKENS_ON_GPU = 8192


def peak_flops(device_name: str) -> float | None:
    """Of a GPU by its name; None where the data sheet is not known here."""
    return next((peak for part, peak in PEAK_FLOPS.items() if part in device_name), None)


class Bench:
    """One model, its rows, and loops over them.

    Args:
        base: any base directory; its tokenizer is taken.
        rows: how many.
        stock: what the naive loop trains: the same weights, its layers' code untouched by ours.
    """

    def __init__(
        self, base: Path, model: Any, rows: int, device: torch.device, settings: Settings, stock: Any = None
    ) -> None:
        self.base, self.model, self.device = base, model, device
        self.bf16 = resolve_precision(settings, device) == "bf16"
        self.products = work_of(model)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self.stock = model if stock is None else stock
        width = model.config.talker_config.hidden_size
        self.speaker = np.zeros(width, dtype=np.float32)
        self.rows = Rows(
            common.table_of(rows),
            layout.SpecialIds.from_config(model.config.to_dict()),
            common.tokenizer_of(base),
            {"one": self.speaker},
            text_layout="non_streaming",
        )
        self.frames = int(self.rows.frames.sum())
        self.settings = settings
        self.changes = Changes()
        self.reference = max(clips_directory().glob("*.flac"), key=lambda path: path.stat().st_size)

    def autocast(self) -> Any:
        """The precision of both loops."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def ours(self, fraction: float, mode: str = "full", tokens: int | None = None) -> Ours:
        """Our loop; on a GPU in batches of `TOKENS_ON_GPU` positions unless `tokens` says otherwise."""
        return Ours(self, fraction, mode, tokens or (TOKENS_ON_GPU if self.device.type == "cuda" else None))

    def naive(self, batch_size: int) -> Callable[[], float]:
        """The naive loop: called, it goes once over all rows, in another order each time."""
        objective = naive.NaiveObjective(self.stock)
        trained = list(self.stock.parameters())
        optimizer = torch.optim.AdamW(trained, lr=1e-5)
        epochs = iter(range(1 << 30))

        def epoch() -> float:
            objective.train()
            for batch in naive.loader(self.rows, self.reference, batch_size, seed=next(epochs)):
                with self.autocast():
                    talker, sub_talker = objective({k: v.to(self.device) for k, v in batch.items()})
                    loss = talker + self.settings.sub_talker_loss_weight * sub_talker
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, self.settings.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            return float(loss.detach())

        return epoch

    def naive_batch_size(self) -> int:
        """As many clips as our batches hold on average."""
        if self.device.type != "cuda":
            return self.settings.batch_size
        lengths = [self.rows.positions(row, 0) for row in range(len(self.rows))]
        return max(1, round(TOKENS_ON_GPU / float(np.mean(lengths))))

    def flops(self, fraction: float, numbers: list[int] | None = None, backward: float = 2.0) -> float:
        """FLOPs of training once on all rows, or on the rows `numbers`, counted as in `job/estimate/flops.py`."""
        total = 0.0
        for row in range(len(self.rows)) if numbers is None else numbers:
            frames = int(self.rows.frames[row])
            total += self.products.of_sample(self.rows.positions(row, 0), frames, fraction, backward)
        return total

    def same_loss(self) -> None:
        """Both loops compute the same quantity, on the same samples.

        Raises:
            AssertionError: they do not.
        """
        numbers = list(range(min(4, len(self.rows))))
        samples = naive.Samples(self.rows, self.reference)
        batch = naive.collate([samples[row] for row in numbers])
        with torch.no_grad():
            vectors = self.stock.speaker_encoder(batch["mels"].to(self.device)).cpu().numpy()
            theirs = naive.NaiveObjective(self.stock)({k: v.to(self.device) for k, v in batch.items()})
        self.speaker[:] = vectors[0]  # the same reference stands for all
        self.changes.undo()
        self.changes = fast.apply(self.model, self.settings, self.device, "no")
        with torch.no_grad():
            losses = Objective(self.model)(self.rows.batch(numbers, 0).to(self.device))
        ours = (losses.talker / losses.talker_terms, losses.sub_talker / losses.sub_talker_terms)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=0)


class Ours:
    """Our loop: what the job's does in a step, which is collate, forward, backward, clip, AdamW.

    Args:
        fraction: SUB_TALKER_FRAME_FRACTION.
        mode: TRAIN_MODE.
        tokens: TOKENS_PER_BATCH; None for BATCH_SIZE clips.

    Attributes:
        tokens: that of the next epoch.
        epoch: how many have been begun.
        largest: the largest batch so far.
    """

    def __init__(self, bench: Bench, fraction: float, mode: str, tokens: int | None) -> None:
        self._bench, self._fraction, self.tokens = bench, fraction, tokens
        choices = {"train_mode": mode, "sub_talker_frame_fraction": fraction}
        self._settings = bench.settings.model_copy(update=choices)
        bench.changes.undo()  # those of the loop before
        groups = adapt.adapt(bench.model, self._settings)
        precision = "bf16" if bench.bf16 else "no"
        bench.changes = setup.arrange(bench.model, self._settings, precision, bench.device)
        self._trained = [p for group in groups for _, p in group.parameters]
        self._objective = Objective(bench.model)
        self._optimizer = optimizers.optimizer_of(self._settings, groups)
        self._update = Update(self._optimizer, self._settings.max_grad_norm)
        self.epoch = 0
        self.largest = Load(0, 0, 0, 0)

    def __call__(self) -> float:
        """A new epoch over all rows; returns the last step's loss."""
        for _, loss in self.steps():
            last = loss
        return float(last)

    def endless(self) -> Generator[tuple[list[int], torch.Tensor], None, None]:
        """Steps of epoch after epoch, each taken when it is asked for: the rows, and the loss on the device."""
        while True:
            yield from self.steps()

    def steps(self) -> Generator[tuple[list[int], torch.Tensor], None, None]:
        """The steps of a new epoch."""
        bench, settings = self._bench, self._settings
        epoch, self.epoch = self.epoch, self.epoch + 1
        self._objective.train()
        self._train_only()
        order = epoch_order(
            bench.rows, epoch=epoch, seed=0, batch_size=settings.batch_size, tokens_per_batch=self.tokens
        )
        for numbers, batch in ahead(order, lambda numbers: self._built(numbers, epoch)):
            load = Load(batch.text_index.numel(), batch.target_frames, len(numbers), len(batch.text_rows))
            self.largest = max(self.largest, load, key=lambda one: one.positions)
            with bench.autocast():
                losses = self._objective(batch.to(bench.device))
                talker = losses.talker / losses.talker_terms
                loss = talker + settings.sub_talker_loss_weight * losses.sub_talker / losses.sub_talker_terms
            loss.backward()
            self._update(self._trained, loss.detach())
            self._optimizer.zero_grad(set_to_none=True)
            yield numbers, loss.detach()

    def estimate(self) -> int:
        """Bytes that `plan` would say for the largest batch so far, without what CUDA takes for itself."""
        parameters = list(self._bench.model.parameters())
        gradients = sum(p.numel() * p.element_size() for p in self._trained)
        # `trained_bytes` counts the weight and its gradient too, which are of the same type.
        moments = sum(p.numel() for p in self._trained) * trained_bytes(self._settings) - 2 * gradients
        weights = sum(p.numel() * p.element_size() for p in parameters)
        working = activations.working(self._bench.shapes, self._settings, self.largest, gradients)
        return int(weights + moments) + working.peak + working.in_kernels

    def _built(self, numbers: list[int], epoch: int) -> Batch:
        """As `Stepper.build` makes it, in a thread of its own."""
        batch = self._bench.rows.batch(numbers, epoch, self._fraction)
        return batch.pin_memory() if self._bench.device.type == "cuda" else batch

    def _train_only(self) -> None:
        """The loops share the model and take turns: what the other one trains is frozen again."""
        mine = {id(parameter) for parameter in self._trained}
        for parameter in self._bench.model.parameters():
            parameter.requires_grad_(id(parameter) in mine)


def work_of(model: Any) -> Work:
    """What a forward pass of the model multiplies."""
    return Work.of({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})


def make(
    work: Path,
    size: str,
    rows: int,
    settings: Settings,
    device: torch.device | None = None,
    *,
    both: bool = False,
    base: Path | None = None,
) -> Bench:
    """The model and data of a case, a model for each loop if `both`; `work` keeps the base directory if none is given.

    On a GPU the model is of a released `size` with random weights, else the base's own.
    """
    device = device or torch.device("cpu")
    base = base or base_in(work)
    if device.type == "cuda":  # one loop after the other, each in a process of its own
        return Bench(base, common.released_model(size, base, device), rows, device, settings)
    models: list[Any] = [load_model(base, device, torch.float32).model for _ in range(2 if both else 1)]
    for model in models:
        model.speech_tokenizer = None
    return Bench(base, models[0], rows, device, settings, models[-1])


def base_in(work: Path) -> Path:
    """Any base directory, made in `work` if it is not there."""
    base = work / "base"
    return base if base.exists() else common.small_base(base)
