"""A loss summed over rows, with gradients computed chunk by chunk during the forward pass.

Frames are independent of each other in the sub-talker and in the output heads. Autograd would keep the activations of
all of them until the backward pass: for each frame 16 positions through every layer, and 15 sets of logits, more memory
than the talker's. A sum's gradient is the sum of the chunks' gradients, so each chunk's is computed at once and its
activations are freed. Unlike checkpointing this recomputes nothing, and on a CPU a chunk stays in the cache. (Liger
Kernel's fused linear cross-entropy, Hsu et al. 2024, does so for one head; here whatever computes the loss stays a
module, so that adapters, dropout and autocast work as usual.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

#: Takes rows (n, ...) and targets (n, ...), and returns the sum of their losses, fp32.
LossOf = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def summed(
    loss_of: LossOf, rows: torch.Tensor, targets: torch.Tensor, parameters: Iterable[nn.Parameter], chunk: int
) -> torch.Tensor:
    """Compute `loss_of(rows, targets)`, at most `chunk` rows at a time.

    Args:
        loss_of: a sum over independent rows.
        rows: (N, ...), N >= 1.
        targets: (N, ...).
        parameters: all parameters that `loss_of` trains; no others get a gradient.
        chunk: maximum number of rows whose activations exist at the same time.

    Returns:
        a scalar that can be differentiated once, with respect to `rows` and `parameters`.
    """
    trained = [p for p in parameters if p.requires_grad]
    if not torch.is_grad_enabled() or not (trained or rows.requires_grad):
        return torch.stack([loss_of(r, t) for r, t in _chunks(rows, targets, chunk)]).sum()
    total: torch.Tensor = _Summed.apply(loss_of, rows, targets, chunk, *trained)  # type: ignore[no-untyped-call]
    return total


def _chunks(rows: torch.Tensor, targets: torch.Tensor, chunk: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    # Equal sizes, rather than full chunks and a remainder: a small chunk is computed less efficiently.
    parts = -(-len(rows) // chunk)
    return zip(torch.tensor_split(rows, parts), torch.tensor_split(targets, parts), strict=True)


def _add(gradients: list[torch.Tensor | None], so_far: list[torch.Tensor | None]) -> None:
    """Add a chunk's gradients to those of the chunks before, and empty `gradients`.

    Otherwise they would exist until the next chunk's are there: three sets of them from the third chunk on.
    """
    for index in reversed(range(len(gradients))):
        gradient, before = gradients.pop(), so_far[index]
        if gradient is not None:  # what a chunk does not use has none
            so_far[index] = gradient if before is None else before.add_(gradient)


class _Summed(torch.autograd.Function):
    """Computes the sum and its gradients in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any, loss_of: LossOf, rows: torch.Tensor, targets: torch.Tensor, chunk: int, *trained: torch.Tensor
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[1]
        losses: list[torch.Tensor] = []
        by_rows: list[torch.Tensor] = []
        by_trained: list[torch.Tensor | None] = [None] * len(trained)
        for part, held_against in _chunks(rows, targets, chunk):
            with torch.enable_grad():
                part = part.detach().requires_grad_(wanted)
                loss = loss_of(part, held_against)
            with torch.autocast(rows.device.type, enabled=False):  # as around every backward pass
                wanting = [part, *trained] if wanted else trained
                gradients: list[torch.Tensor | None] = [*torch.autograd.grad(loss, wanting, allow_unused=True)]
            losses.append(loss.detach())
            if wanted:
                by_part = gradients.pop(0)
                by_rows.append(torch.zeros_like(part) if by_part is None else by_part)
            _add(gradients, by_trained)
        ctx.by_rows = torch.cat(by_rows) if wanted else None
        ctx.by_trained = by_trained
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> Any:
        (scale,) = outputs
        by_rows, by_trained = ctx.by_rows, ctx.by_trained
        del ctx.by_rows, ctx.by_trained  # they are scaled in place, so only once
        scaled = None if by_rows is None else by_rows.mul_(scale)
        return None, scaled, None, None, *(None if g is None else g.mul_(scale) for g in by_trained)
