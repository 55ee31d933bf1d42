"""The stock RMS norm, differentiated from its input: on a GPU by torch's own fused kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch

from job.console import warn
from job.train import trial


class RMSNorm(torch.autograd.Function):
    """y = w * x / rms(x) over the last axis.

    `apply` takes x (..., D), the weight (D,), what is added to the mean square, and the type of the result.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, kind: torch.dtype) -> torch.Tensor:
        """(..., D)."""
        ctx.eps, ctx.fused = eps, _by_kernels(x, weight)
        if ctx.fused:
            normed, scale = _fused(x, weight, eps)
            ctx.save_for_backward(x, weight, scale)
            return normed.to(kind)
        scale = _scale(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return _scaled(x, weight, scale, kind)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """By x and the weight."""
        x, weight, scale = ctx.saved_tensors
        differentiate = _fused_backward if ctx.fused else _backward
        return *differentiate(gradients[0], x, weight, scale, ctx.needs_input_grad[:2]), None, None


def again(normed: torch.Tensor) -> Callable[[], torch.Tensor] | None:
    """What computes a norm's output again, from what the norm keeps in any case; None if another made it."""
    node: Any = normed.grad_fn
    if type(node) is not RMSNorm._backward_cls:  # type: ignore[attr-defined]
        return None
    kept = cast(Any, node)
    x, weight, scale = (tensor.detach() for tensor in kept.saved_tensors)
    eps, kind = kept.eps, normed.dtype
    if kept.fused:
        return lambda: _fused(x, weight, eps)[0].to(kind)
    return lambda: _scaled(x, weight, scale, kind)


# ---- by single operations --------------------------------------------------------------------------------------------


def _scale(x: torch.Tensor, eps: float) -> torch.Tensor:
    """1 / rms(x), (..., 1), in fp32 or better."""
    precision = torch.promote_types(x.dtype, torch.float32)
    square: torch.Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=precision).square_()
    return square.div_(x.shape[-1]).add_(eps).rsqrt_()


def _scaled(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    return torch.mul((x * scale).to(x.dtype), weight, out=torch.empty_like(x, dtype=kind))


def _backward(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, wanted: tuple[bool, bool]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """With s = 1 / rms(x) and g' = g * w: dx = s g' - x s^3 mean(g' x), dw = sum of s g x."""
    along = (x if gradient.dtype == scale.dtype else x.to(scale.dtype)) * gradient
    by_weight = (scale.flatten() @ along.flatten(0, -2)).to(weight.dtype) if wanted[1] else None
    if not wanted[0]:
        return None, by_weight
    mean = (along @ weight.to(along.dtype)).div_(-x.shape[-1]).unsqueeze(-1)
    by_x = (gradient * weight).to(scale.dtype).mul_(scale).addcmul_(x, mean * scale**3).to(x.dtype)
    return by_x, by_weight


# ---- by torch's kernels, which read everything once ------------------------------------------------------------------


def _fused(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The result in the type of both together, and 1 / rms(x)."""
    common = torch.promote_types(x.dtype, weight.dtype)
    return torch.ops.aten._fused_rms_norm(x.to(common), [x.shape[-1]], weight.to(common), eps)  # type: ignore[no-any-return]


def _fused_backward(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, wanted: tuple[bool, bool]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    common = torch.promote_types(x.dtype, weight.dtype)
    by_x, by_weight = torch.ops.aten._fused_rms_norm_backward(
        gradient.to(common), x.to(common), [x.shape[-1]], scale, weight.to(common), list(wanted)
    )
    return (by_x.to(x.dtype) if wanted[0] else None), (by_weight.to(weight.dtype) if wanted[1] else None)


def _by_kernels(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return x.is_cuda and _is_right(x.shape[-1], torch.promote_types(x.dtype, weight.dtype), x.device)


@cache
def _is_right(width: int, kind: torch.dtype, device: torch.device) -> bool:
    """Whether torch's kernels give what single operations give on this machine."""
    made = torch.Generator(device).manual_seed(0)
    x, gradient = (torch.randn(3, 5, width, generator=made, device=device).to(kind) for _ in range(2))
    weight = 1 + 0.3 * torch.randn(width, generator=made, device=device).to(kind)

    def results() -> Any:
        with torch.autocast(device.type, enabled=False):
            normed, scale = _fused(x, weight, 1e-6)
            found = (normed, *_fused_backward(gradient, x, weight, scale, (True, True)))
            scale = _scale(x, 1e-6)
            return found, (_scaled(x, weight, scale, kind), *_backward(gradient, x, weight, scale, (True, True)))

    reason = trial.problem(results, 0.02 if kind in (torch.bfloat16, torch.float16) else 1e-4)
    if reason:
        warn("train", f"torch's fused norm is not used for {width} values in {kind}: {reason}")
    return not reason
