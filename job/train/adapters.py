"""Fused LoRA linear layer: y = W x + b + s B A x in fewer memory passes than peft's `lora.Linear`.

peft's own forward pass computes B A x, scales it and adds it, each a pass over a tensor of y's size, and autograd adds
up two gradients of x's size. Here the second product accumulates into the first one's result. (Unsloth's and Liger's
LoRA kernels use the same formulas.)
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from job.train.changes import Changes


class _Adapted(torch.autograd.Function):
    """Autograd function for frozen W and b. Computes in dtype `kind`; each gradient has its tensor's dtype."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
        kind: torch.dtype,
    ) -> torch.Tensor:
        """x (..., D), W (E, D), b (E,), A (r, D), B (E, r) -> (..., E)."""
        ctx.scale, ctx.shape, ctx.types = scale, x.shape, (x.dtype, down.dtype, up.dtype)
        rows, down, up = x.reshape(-1, x.shape[-1]).to(kind), down.to(kind), up.to(kind)
        result = F.linear(rows, weight.to(kind), None if bias is None else bias.to(kind))
        inner = rows @ down.t()
        result.addmm_(inner, up.t(), alpha=scale)  # in place: otherwise the first product is copied
        ctx.save_for_backward(rows, weight, down, up, inner)
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """With g the gradient of y: dx = W' g + s A' B' g, dA = s (B' g) x', dB = s g (A x)'."""
        rows, weight, down, up, inner = ctx.saved_tensors
        of_x, of_down, of_up = ctx.types
        gradient = gradients[0].reshape(-1, weight.shape[0])
        by_inner = (gradient @ up).mul_(ctx.scale)
        by_x = by_down = by_up = None
        if ctx.needs_input_grad[0]:
            by_x = (gradient @ weight.to(rows.dtype)).addmm_(by_inner, down).view(ctx.shape).to(of_x)
        if ctx.needs_input_grad[3]:
            by_down = (by_inner.t() @ rows).to(of_down)
        if ctx.needs_input_grad[4]:
            by_up = (gradient.t() @ inner).mul_(ctx.scale).to(of_up)
        return by_x, None, None, by_down, by_up, None, None


def use(talker: Any, changes: Changes, *, lowers: bool = False, leave: Iterable[nn.Module] = ()) -> None:
    """Use the fused computation in the adapted layers of a talker and its sub-talker, where it applies.

    Other layers (with dropout, another kind of adapter, or several adapters) keep peft's own code.

    Args:
        lowers: autocast will be on. Then peft's adapters also read its lower-precision inputs directly, instead of each
            making an fp32 copy that is lowered again.
        leave: modules whose submodules keep peft's own code.
    """
    adapted = [module for module in talker.modules() if hasattr(module, "cast_input_dtype_enabled")]  # peft's
    if not adapted:
        return
    from peft.tuners.lora import Linear

    left = {part for module in leave for part in module.modules()}
    for module in adapted:
        changes.set(module, "cast_input_dtype_enabled", not lowers)
        if type(module) is Linear and _is_plain(module) and module not in left:
            changes.set(module, "forward", MethodType(_forward, module))


def _is_plain(module: Any) -> bool:
    adapters = module.active_adapters
    if len(adapters) != 1 or len(module.lora_A) != 1 or module.lora_variant or type(module.base_layer) is not nn.Linear:
        return False
    (name,) = adapters
    trained = any(p.requires_grad for p in module.base_layer.parameters())
    biased = module.lora_A[name].bias is not None or module.lora_B[name].bias is not None
    return isinstance(module.lora_dropout[name], nn.Identity) and not (trained or biased)


def _forward(self: Any, x: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
    (name,) = self.active_adapters
    base, down, up = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
    device = x.device.type
    lowers = torch.is_autocast_enabled(device)
    alike = x.dtype == base.weight.dtype == down.dtype
    if self.disable_adapters or self.merged or others or named or not (lowers or alike):
        return type(self).forward(self, x, *others, **named)  # type: ignore[no-any-return]
    kind = torch.get_autocast_dtype(device) if lowers else x.dtype
    with torch.autocast(device, enabled=False):
        return _Adapted.apply(x, base.weight, base.bias, down, up, self.scaling[name], kind)  # type: ignore[no-any-return,no-untyped-call]
