"""The optimizer's steps on the device against the same steps on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gpu.case import Context, Finding
from job.config.settings import Settings
from job.optimizer import optimizers
from job.optimizer.groups import Group
from job.train.update import Update

#: OPTIMIZER, MASTER_WEIGHTS, and how far the way that the weights have moved may be from plain fp32 AdamW's. Eight bits
#: round the moments, and bf16 the weights.
KINDS = (
    ("adamw", "fp32", 1e-4),
    ("adamw_fused", "fp32", 1e-4),
    ("adamw_8bit", "fp32", 5e-2),
    ("adamw_fused", "bf16_with_fp32", 5e-2),
    ("adamw_fused", "bf16_stochastic", 5e-2),
    ("adamw_8bit", "bf16_stochastic", 5e-2),
)
STEPS = 6


def steps(context: Context) -> Iterator[Finding]:
    """A few steps of each kind: clipping included, and a step that is to be left out because a loss is not finite."""
    expected = _moved("adamw", "fp32", torch.device("cpu"), context.small)
    finding = Finding("optimizers")
    for optimizer, weights, bound in KINDS:
        found = _moved(optimizer, weights, context.device, context.small)
        off = (found - expected).norm() / expected.norm()
        finding.most(f"{optimizer}, {weights}", float(off), bound)
    yield finding


def _moved(optimizer: Any, weights: Any, device: torch.device, small: bool) -> torch.Tensor:
    """What `STEPS` steps have changed, all weights in one tensor on the CPU."""
    settings = Settings(optimizer=optimizer, master_weights=weights, max_grad_norm=1.0, weight_decay=0.1)
    made = torch.Generator().manual_seed(0)
    kind = torch.float32 if weights == "fp32" else torch.bfloat16
    shapes = ((96, 50), (4096,), (33,)) if small else ((2048, 6144), (3072, 1024), (4096,), (33,))
    # Values that bf16 has, so that all begin at the same ones; small enough for its steps to be smaller than an update.
    start = [(0.02 * torch.randn(*shape, generator=made)).bfloat16().float() for shape in shapes]
    parameters = [torch.nn.Parameter(value.to(device, kind, copy=True)) for value in start]
    group = Group("full", 1e-2, [(f"weight_{n}", p) for n, p in enumerate(parameters)])
    update = Update(optimizers.optimizer_of(settings, [group]), settings.max_grad_norm)
    for step in range(STEPS):
        for parameter in parameters:
            gradient = torch.randn(*parameter.shape, generator=made) * (1 + step)
            parameter.grad = gradient.to(parameter)
        bad = step == 2
        update(parameters, torch.tensor(float("nan") if bad else 1.0, device=device))
    ways = [p.detach().float().cpu() - before for p, before in zip(parameters, start, strict=True)]
    return torch.cat([way.flatten() for way in ways])
