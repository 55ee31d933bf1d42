"""Training speed: frames a second, MFU, memory against `plan`, and kernels; every step is of another shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import common
import loops
import torch

from gpu.case import Context, Finding, NotHere, rounded
from gpu.losses import base_of
from gpu.profiled import profiled
from job.config.settings import Settings
from job.core.errors import BadInput
from job.estimate.activations import Load
from job.estimate.plan import HEADROOM
from job.fast import compiled

#: Rows that epochs are drawn from: several batches of the largest size.
ROWS, SMALL_ROWS = 2048, 24
NAIVE_ROWS = 128
#: Names of GRADIENT_CHECKPOINTING.
KEPT = {"selective": "selective", True: "whole layers'"}
#: Steps of each size that do not count, and those that do at the least, and seconds at the least.
WARM_UP, STEPS, SECONDS = 3, 6, 3.0


@dataclass(frozen=True)
class Shape:
    """What is trained, and how.

    `positions` are TOKENS_PER_BATCH of the parts of the case, one after the other.
    """

    size: str
    mode: str
    positions: tuple[int, ...]
    compiled: bool = False
    checkpointing: Any = "false"
    weights: Any = "fp32"

    @property
    def name(self) -> str:
        """Of its case."""
        kept = "" if self.checkpointing == "false" else f", {KEPT[self.checkpointing]} checkpointing"
        weights = "" if self.weights == "fp32" else f", {self.weights}"
        return f"speed, {self.mode}, {self.size}{', compiled' if self.compiled else ''}{weights}{kept}"


def of(shape: Shape) -> Callable[[Context], Iterator[Finding]]:
    """A case for a shape."""

    def run(context: Context) -> Iterator[Finding]:
        if shape.compiled:
            try:
                compiled.check(context.device)
            except BadInput as reason:
                raise NotHere(str(reason)) from reason
        context.want_for(shape.weights)
        rows = SMALL_ROWS if context.small else ROWS
        settings = Settings(
            torch_compile=shape.compiled,
            gradient_checkpointing=shape.checkpointing,
            master_weights=shape.weights,
            mixed_precision="auto" if context.on_gpu or shape.weights == "fp32" else "bf16",
        )
        bench = loops.make(context.work, shape.size, rows, settings, context.device, base=base_of(context))
        loop = bench.ours(settings.sub_talker_frame_fraction, shape.mode, shape.positions[0])
        layers = bench.model.talker.model.layers
        used = all("forward" in vars(layer) for layer in layers)
        for positions in shape.positions:
            finding = Finding(f"{shape.name}, {positions} positions")
            if shape.compiled:
                finding.holds("compiled", used, "the layers are not compiled")
            loop.tokens = positions
            if too_much := _too_much(context, loop, positions):
                finding.undone = too_much
            else:
                measured_part(context, shape, bench, loop, finding)
            yield finding

    return run


def naive(size: str) -> Callable[[Context], Iterator[Finding]]:
    """The naive loop at as many clips a batch as ours has, or half of them until they fit."""

    def run(context: Context) -> Iterator[Finding]:
        rows = SMALL_ROWS // 2 if context.small else NAIVE_ROWS
        bench = loops.make(context.work, size, rows, Settings(), context.device, base=base_of(context))
        batch = bench.naive_batch_size()
        epoch = bench.naive(batch)
        while not _fits(epoch):
            assert batch > 1, "not even one clip fits"
            batch //= 2
            epoch = bench.naive(batch)
        rates: list[float] = []
        while len(rates) < 2 and (not rates or time.monotonic() < context.until - 30):
            common.synchronize(context.device)
            start = time.perf_counter()
            epoch()
            common.synchronize(context.device)
            rates.append(bench.frames / (time.perf_counter() - start))
        finding = Finding(f"speed, naive, {size}", {"clips a batch": batch, "frames a second": rounded(max(rates))})
        context.remember(f"naive-{size}", max(rates))
        yield finding

    return run


def measured_part(context: Context, shape: Shape, bench: loops.Bench, loop: loops.Ours, finding: Finding) -> None:
    """Steps of a loop at its present `tokens`: the figures of a part of a case."""
    fraction = bench.settings.sub_talker_frame_fraction
    backward = 1.0 if shape.mode == "lora" else 2.0  # through frozen weights gradients only pass
    if context.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(context.device)
    loop.largest = Load(0, 0, 0, 0)
    steps = loop.endless()
    for _ in range(1 if context.small else WARM_UP):
        next(steps)
    common.synchronize(context.device)
    start, rows, count, least = time.perf_counter(), [], 0, (2, 0.0) if context.small else (STEPS, SECONDS)
    while count < least[0] or (time.perf_counter() - start < least[1] and time.monotonic() < context.until - 20):
        numbers, loss = next(steps)
        rows += numbers
        count += 1
    common.synchronize(context.device)
    seconds = time.perf_counter() - start
    rate = float(bench.rows.frames[rows].sum()) / seconds
    finding.holds("loss finite", bool(torch.isfinite(loss)), "the loss is not finite")
    finding.figures["frames a second"] = rounded(rate)
    finding.figures["ms a step"] = rounded(1000 * seconds / count)
    if known := loops.peak_flops(_name(context)):
        finding.figures["MFU"] = rounded(bench.flops(fraction, rows, backward) / seconds / known)
    theirs = context.recall(f"naive-{shape.size}")
    if theirs and shape.mode == "full":
        finding.figures["times naive"] = rounded(rate / theirs)
    planned = loop.estimate()
    finding.figures["plan GB"] = rounded(planned / 1e9)
    if context.on_gpu:
        finding.figures["allocated GB"] = rounded(torch.cuda.max_memory_allocated(context.device) / 1e9)
        # As `plan` says which GPU is large enough: a share is left for what the allocator cannot hand out again.
        reserved = torch.cuda.max_memory_reserved(context.device)
        finding.most("reserved GB", reserved / 1e9, float(f"{planned / (1 - HEADROOM) / 1e9:.4g}"))
    finding.figures.update(profiled(context, lambda: next(steps)))
    steps.close()


def _too_much(context: Context, loop: loops.Ours, positions: int) -> str:
    """Why a batch of so many positions is not tried; empty where `plan` says that it fits."""
    if not context.on_gpu:
        return ""
    frames = int(0.7 * positions)
    loop.largest = Load(positions, frames, max(1, positions // 90), min(positions, 2000))
    total = torch.cuda.get_device_properties(context.device).total_memory
    planned = loop.estimate()
    if planned <= (1 - HEADROOM) * total:
        return ""
    return f"plan says {planned / 1e9:.0f} GB, and this GPU has {total / 1e9:.0f}"


def _fits(epoch: Callable[[], Any]) -> bool:
    try:
        epoch()
        return True
    except torch.OutOfMemoryError:
        pass
    torch.cuda.empty_cache()  # only now: the error holds on to what was there when it was raised
    return False


def _name(context: Context) -> str:
    return torch.cuda.get_device_name(context.device) if context.on_gpu else "cpu"
