"""LoRA's products by fewer operations: y = W x + b + s B A x, and A x at once for the layers that read the same x.

peft's own forward pass computes B A x, scales it and adds it, each a pass over a tensor of y's size. Here the second
product accumulates into the first one's result. q, k and v, and gate and up, read the same input: with their A joined,
it is read once for all of them, and gets one gradient from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from job.fast.changes import Changes

#: Children of a module that it calls in this order, with the same tensor.
_SHARE_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def use(talker: Any, changes: Changes, *, lowers: bool = False, leave: Iterable[nn.Module] = ()) -> None:
    """Compute so in the adapted layers of a talker and its sub-talker, where it applies.

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
    for parent in talker.modules():
        plain = {
            name: child
            for name, child in parent.named_children()
            if type(child) is Linear and child not in left and _is_plain(child)
        }
        together = [[plain.pop(name) for name in names if name in plain] for names in _SHARE_INPUT]
        for group in [*together, *([alone] for alone in plain.values())]:
            ready: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
            for module in group:
                changes.set(module, "forward", partial(_forward, module, group, ready))


def _is_plain(module: Any) -> bool:
    adapters = module.active_adapters
    if len(adapters) != 1 or len(module.lora_A) != 1 or module.lora_variant or type(module.base_layer) is not nn.Linear:
        return False
    (name,) = adapters
    biased = module.lora_A[name].bias is not None or module.lora_B[name].bias is not None
    return isinstance(module.lora_dropout[name], nn.Identity) and not biased


def _forward(
    self: Any,
    group: list[Any],
    ready: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]],
    x: torch.Tensor,
    *others: Any,
    **named: Any,
) -> torch.Tensor:
    """The layer's `forward`: the first one of a `group` leaves the others' results `ready`, with what they are of."""
    of, result = ready.pop(self, (None, None))
    if of is x and result is not None:
        return result
    lowers = torch.is_autocast_enabled(x.device.type)
    modules = group if self is group[0] else [self]
    parts = [_parts(module) for module in modules]
    kind = torch.get_autocast_dtype(x.device.type) if lowers else x.dtype
    alike = lowers or all(part.dtype == kind for weight, _, down, _, _ in parts for part in (weight, down))
    if others or named or not alike or any(module.disable_adapters or module.merged for module in modules):
        return type(self).forward(self, x, *others, **named)  # type: ignore[no-any-return]
    first, *rest = products(x, kind, parts)
    ready.update(zip(modules[1:], ((x, result) for result in rest), strict=True))
    return first


def forget(model: nn.Module) -> None:
    """Drop results that a forward pass has left ready because it was broken off: they hold its whole graph."""
    for module in model.modules():
        forward = vars(module).get("forward")
        if isinstance(forward, partial) and forward.func is _forward:
            forward.args[2].clear()


#: W (E, D), b (E,) or None, A (r, D), B (E, r), and s.
Parts = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor, float]


def _parts(module: Any) -> Parts:
    (name,) = module.active_adapters
    base = module.base_layer
    return base.weight, base.bias, module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]


def products(x: torch.Tensor, kind: torch.dtype, layers: Sequence[Parts]) -> list[torch.Tensor]:
    """Compute adapted layers of x (..., D) in dtype `kind`: (..., E) each."""
    rows = x.reshape(-1, x.shape[-1]).to(kind)
    downs = [down for _, _, down, _, _ in layers]
    inner = F.linear(rows, (torch.cat(downs) if len(downs) > 1 else downs[0]).to(kind))
    results = []
    inners = torch.split(inner, [len(down) for down in downs], dim=1) if len(downs) > 1 else [inner]
    for (weight, bias, _, up, scale), of_layer in zip(layers, inners, strict=True):
        result = F.linear(rows, weight.to(kind), None if bias is None else bias.to(kind))
        result.addmm_(of_layer, up.to(kind).t(), alpha=scale)  # in place: otherwise the first product is copied
        results.append(result.view(*x.shape[:-1], -1))
    return results
