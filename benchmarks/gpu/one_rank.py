"""What the processes of a run on several GPUs do, by one process on one GPU: NCCL's sums, and FSDP's sharding.

NCCL takes one process a GPU. So a process that is alone in its group trains as the first of two, which takes every
other part of a step and sends its gradients while the backward pass still runs; and as the only one that holds a shard.
What another process adds is missing (see `ranks` for two GPUs); kernels, streams and their order are those of a run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist

from gpu import losses
from gpu.case import Case, Context, Finding
from job import pipeline
from job.config.settings import Settings
from job.processes import joining
from job.processes.ranks import Ranks
from job.train import loop
from job.train.spread import Spread

RUN = {**losses.MODES["full"], "MIXED_PRECISION": "no", "LEARNING_RATE": "1e-4", "GRAD_ACCUM": "2", "SAVE_STEPS": "3"}
STEPS, SMALL_STEPS = 8, 4
#: How far losses in fp32 may be apart, of kernels that add up in another order.
APART = 2e-3


class _FirstOfTwo(Ranks):
    """The first of two ranks, of which the second has nothing to say."""

    def gather(self, value: Any) -> list[Any]:
        return [value] * self.world


class _Sharded(Spread):
    def __init__(self, ranks: Ranks, sharded: bool = False) -> None:
        super().__init__(ranks, sharded)
        self.sharded = True


def summed(context: Context) -> Iterator[Finding]:
    """Gradients are sent in a backward pass, over NCCL and over gloo on the CPU: the same losses."""
    finding = Finding("one process, sums by NCCL" if context.on_gpu else "one process, sums by gloo")
    exact, found = (_losses(context, device, 2) for device in (torch.device("cpu"), context.device))
    finding.most("losses off", float((np.abs(found - exact) / exact).max()), APART)
    yield finding


def sharded(context: Context) -> Iterator[Finding]:
    """A model that is sharded has the losses of one that is not."""
    finding = Finding("one process, sharded by FSDP")
    exact = losses.losses(context, losses.built_in(context), "whole", RUN, _steps(context))
    with patch.object(loop, "Spread", _Sharded):
        found = _losses(context, context.device, 1)
    finding.most("losses off", float((np.abs(found - exact) / exact).max()), APART)
    yield finding


def _losses(context: Context, device: torch.device, world: int) -> np.ndarray:
    """(steps,) losses of a run that takes itself for the first of `world` processes."""
    base = losses.built_in(context)
    losses.prepared(context, base)
    with _group(device) as control:

        def run(settings: Settings, first: str, last: str) -> None:
            loop.train(settings, _FirstOfTwo(0, world, 0, control))

        with patch.object(pipeline, "run", run):
            return losses.losses(context, base, f"first-of-{world}", RUN, _steps(context), str(device))


def _steps(context: Context) -> int:
    return SMALL_STEPS if context.small else STEPS


@contextlib.contextmanager
def _group(device: torch.device) -> Iterator[Any]:
    """The process group of a run, with one process in it, and the variables that torchrun sets; yields the group for
    control messages."""
    named = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    store, cuda = dist.TCPStore("127.0.0.1", 0, 1, is_master=True), device.type == "cuda"  # type: ignore[attr-defined]
    with patch.dict(os.environ, named):
        try:
            yield joining._met(store, 0, 1, 0, cuda=cuda, apart=False, exchange=cuda)
        finally:
            joining._abandoned = False
            if dist.is_initialized():
                dist.destroy_process_group()


CASES = [
    Case("one process, sums", summed, 120),
    Case("one process, sharded", sharded, 120),
]
