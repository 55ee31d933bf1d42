"""Gradients clipped to a norm, by the optimizer's own pass over them where it can.

`clip_grad_norm_` writes all gradients once more before the optimizer reads them. torch's fused AdamW divides them by a
number while it reads them (`grad_scale`, made for mixed precision), which can as well be what they are too large by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from job.train.spread import number


def clip(
    optimizer: Any, parameters: Sequence[torch.nn.Parameter], bound: float, otherwise: Callable[..., Any] | None = None
) -> float:
    """Let the optimizer's next step see gradients of at most this norm.

    Args:
        optimizer: a `torch.optim` one, or accelerate's around it.
        parameters: what is trained; those without a gradient are passed over.
        bound: MAX_GRAD_NORM, the Euclidean norm of all gradients together; infinite is never.
        otherwise: clips (parameters, bound) in place and returns the norm before, for gradients that another must
            scale or that are spread over processes; None is `torch.nn.utils.clip_grad_norm_`.

    Returns:
        the norm before clipping; not finite if a gradient is not.
    """
    plain = getattr(optimizer, "optimizer", optimizer)
    gradients = [p.grad for p in parameters if p.grad is not None]
    scaler = getattr(optimizer, "scaler", None)  # fp16's sets `grad_scale` itself
    if scaler is not None or not _divides(plain) or any(type(g) is not torch.Tensor for g in gradients):
        return number((otherwise or torch.nn.utils.clip_grad_norm_)(parameters, bound))
    norm = float(_norm(gradients))
    # The same margin as in `clip_grad_norm_`, so that no norm divides by zero or comes out above the bound.
    excess = (norm + 1e-6) / bound
    plain.grad_scale = gradients[0].new_tensor(excess, dtype=torch.float32) if excess > 1.0 else None
    return norm


def _divides(optimizer: Any) -> bool:
    """Whether it is an optimizer of torch's that divides gradients as it reads them."""
    return isinstance(optimizer, torch.optim.AdamW) and all(group["fused"] for group in optimizer.param_groups)


def _norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    if gradients and all(g.device.type == "cpu" for g in gradients):  # `vector_norm` is half as fast there
        flat = [g.flatten() for g in gradients]
        return torch.stack([torch.dot(g, g).double() for g in flat]).sum().sqrt()
    return torch.nn.utils.get_total_norm(gradients)
