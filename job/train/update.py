"""The optimizer's step: gradients clipped to a norm, and nothing changed where a loss or a gradient is not finite.

Done the plain way, the host waits for the norm to decide, and a pass of its own over all gradients clips them. torch's
fused AdamW takes both as numbers that stay on the device: it divides gradients as it reads them (`grad_scale`) and
leaves everything as it is (`found_inf`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from job.train.spread import number


class Update:
    """An optimizer's steps. `bound` is MAX_GRAD_NORM, over all gradients together; infinite is never clip."""

    def __init__(self, optimizer: torch.optim.Optimizer, bound: float) -> None:
        self._optimizer: Any = optimizer
        self._bound = bound
        self._on_device = isinstance(optimizer, torch.optim.AdamW) and all(g["fused"] for g in optimizer.param_groups)

    def __call__(self, parameters: Sequence[torch.nn.Parameter], losses: torch.Tensor) -> torch.Tensor:
        """Take a step, unless a loss or a gradient is not finite; the gradients are left in no defined state.

        Args:
            parameters: what is trained; those without a gradient are passed over.
            losses: of any shape, fp32 or fp64.

        Returns:
            a scalar on the device, the norm before clipping.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not self._on_device or any(isinstance(g, DTensor) for g in gradients):
            norm = number(torch.nn.utils.clip_grad_norm_(parameters, self._bound))
            if math.isfinite(norm) and math.isfinite(float(losses.sum())):
                self._optimizer.step()
            return losses.new_tensor(norm)
        norm_before = _norm(gradients)
        # The same margin as in `clip_grad_norm_`.
        self._optimizer.grad_scale = ((norm_before + 1e-6) / self._bound).clamp(min=1.0)
        self._optimizer.found_inf = torch.isfinite(norm_before.double() + losses.sum()).logical_not().float()
        self._optimizer.step()
        return norm_before


def _norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Scalar fp32."""
    if all(g.device.type == "cpu" for g in gradients):  # `vector_norm` is half as fast there
        squares = [torch.dot(flat, flat).double() for flat in (g.flatten() for g in gradients)]
        return torch.stack([*squares, torch.zeros((), dtype=torch.float64)]).sum().sqrt().float()
    return torch.nn.utils.get_total_norm(gradients)
