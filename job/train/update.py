"""Optimizer step with gradient clipping, skipped if a loss or a gradient is not finite.

Done naively, the host waits for the norm to decide, and clipping is an extra pass over all gradients. torch's fused
AdamW takes both as tensors that stay on the device: it divides gradients while reading them (`grad_scale`), and changes
nothing if `found_inf` is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch.distributed.tensor import DTensor

from job.train.spread import whole


class Update:
    """Takes an optimizer's steps. `bound` is MAX_GRAD_NORM, over all gradients together; infinity means never clip."""

    def __init__(self, optimizer: torch.optim.Optimizer, bound: float) -> None:
        self._optimizer: Any = optimizer
        self._bound = bound
        self._on_device = isinstance(optimizer, torch.optim.AdamW) and all(g["fused"] for g in optimizer.param_groups)

    def __call__(self, parameters: Sequence[torch.nn.Parameter], losses: torch.Tensor) -> torch.Tensor:
        """Take a step, unless a loss or a gradient is not finite; gradients are undefined afterwards.

        Args:
            parameters: the trained parameters; those without a gradient are skipped.
            losses: of any shape, fp32 or fp64.

        Returns:
            a scalar on the device, the gradient norm before clipping.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        sharded = any(isinstance(g, DTensor) for g in gradients)
        norm_before = torch.nn.utils.get_total_norm(gradients) if sharded else _norm(gradients)
        if not self._on_device or sharded:
            norm = whole(norm_before.detach())
            if bool(_finite(norm, losses)):  # the only time in a step that the host waits for the device
                torch.nn.utils.clip_grads_with_norm_(parameters, self._bound, norm_before)
                self._optimizer.step()
            return norm
        # The same margin as in `clip_grad_norm_`.
        self._optimizer.grad_scale = ((norm_before + 1e-6) / self._bound).clamp(min=1.0)
        self._optimizer.found_inf = _finite(norm_before, losses).logical_not().float()
        self._optimizer.step()
        return norm_before


def _finite(norm: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """Whether the norm and all losses are finite, a scalar on the losses' device."""
    return torch.isfinite(norm.double() + losses.sum())


def _norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Total norm of the gradients, scalar fp32."""
    if all(g.device.type == "cpu" for g in gradients):  # `vector_norm` is half as fast on a CPU
        squares = [torch.dot(flat, flat).double() for flat in (g.flatten().float() for g in gradients)]
        return torch.stack([*squares, torch.zeros((), dtype=torch.float64)]).sum().sqrt().float()
    if any(g.dtype != torch.float32 for g in gradients):  # otherwise the norms would be as coarse as the gradients
        norms = torch._foreach_norm(list(gradients), 2.0, torch.float32)
        return cast(torch.Tensor, torch.linalg.vector_norm(torch.stack(norms)))
    return torch.nn.utils.get_total_norm(gradients)
