"""Kernels against exact arithmetic, at the shapes of a batch of 8192 positions: norms and adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from gpu.case import Context, Finding, apart
from job.fast import adapters

BF16, FP32 = torch.bfloat16, torch.float32
#: Rows and width: heads of queries and of keys, both released widths, and the sub-talker's frames of 16 positions.
NORMS = ((131072, 128), (65536, 128), (8192, 2048), (8192, 1024), (16384, 1024))
SMALL_NORMS = ((500, 16), (60, 64))
#: How far the worst row may be from exact arithmetic on the same inputs; and the sums over all rows.
TOLERANCE = {FP32: 1e-5, BF16: 1e-2}
OF_SUMS = {FP32: 1e-4, BF16: 2e-2}


def _draw(made: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=made, device=made.device)


def _compare(
    finding: Finding,
    name: str,
    ours: Callable[..., torch.Tensor],
    exact: Callable[..., torch.Tensor],
    inputs: list[torch.Tensor],
    gradient: torch.Tensor,
    summed: tuple[int, ...] = (),
) -> None:
    """The values and all gradients of a function against those of its formula in fp64.

    Args:
        ours: of the inputs, the value.
        exact: the same, differentiated by autograd.
        gradient: of the value.
        summed: which inputs' gradients are sums over rows.
    """
    given = [t.detach().requires_grad_() for t in inputs]
    value = ours(*given)
    found = [value, *torch.autograd.grad(value, given, gradient.to(value.dtype))]
    precise = [t.detach().double().requires_grad_() for t in inputs]
    right = exact(*precise)
    expected = [right, *torch.autograd.grad(right, precise, gradient.to(value.dtype).double())]
    lowest = BF16 if any(t.dtype == BF16 for t in (*inputs, value)) else FP32
    worst = finding.figures.get(name, 0.0)
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        of_sums = number - 1 in summed
        off = apart(one.flatten()[None], other.flatten()[None]) if of_sums else apart(one, other)
        bound = OF_SUMS[lowest] if of_sums else TOLERANCE[lowest]
        worst = max(worst, off / bound)
        if not off <= bound:
            what = "the value" if number == 0 else f"the gradient by input {number}"
            finding.wrong.append(f"{name}: {what} is off by {off:.2g} of {bound:g}")
    finding.figures[name] = float(f"{worst:.2g}") if worst < 1e9 else -1.0


def norm(context: Context) -> Iterator[Finding]:
    """Torch's norm, on a GPU by its fused kernels. Figures: shares of what is allowed."""
    finding = Finding("kernels, norms")
    made = torch.Generator(context.device).manual_seed(0)
    for rows, width in SMALL_NORMS if context.small else NORMS:
        for kind in (FP32, BF16):
            x = _draw(made, rows, width).to(kind)
            weight = (1 + 0.3 * _draw(made, width)).to(kind)

            def ours(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
                return F.rms_norm(x, weight.shape, weight, 1e-6)

            _compare(finding, f"{rows}x{width}", ours, _normed, [x, weight], _draw(made, rows, width), (1,))
    yield finding


def _normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6) * weight


def adapted(context: Context) -> Iterator[Finding]:
    """LoRA's products, two that read the same input, as in training; of the weights there is no gradient."""
    finding = Finding("kernels, adapters")
    made = torch.Generator(context.device).manual_seed(0)
    rows, width, out, rank = (70, 64, 48, 4) if context.small else (8192, 2048, 6144, 16)
    for kind in (FP32, BF16):
        weight = (_draw(made, out, width) / width**0.5).to(kind)
        x = _draw(made, rows, width).to(kind)
        down, up = _draw(made, rank, width) / width**0.5, _draw(made, out, rank) / rank**0.5
        if kind == BF16:  # it lowers the adapter itself; the formula is to be given what it computes with
            down, up = down.to(kind).float(), up.to(kind).float()

        def ours(
            x: torch.Tensor,
            down: torch.Tensor,
            up: torch.Tensor,
            weight: torch.Tensor = weight,
            kind: torch.dtype = kind,
        ) -> torch.Tensor:
            halves = [(w, None, down, u, 2.0) for w, u in zip(weight.chunk(2), up.chunk(2), strict=True)]
            return torch.cat(adapters.products(x, kind, halves), dim=-1)

        def exactly(
            x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, weight: torch.Tensor = weight
        ) -> torch.Tensor:
            return x @ weight.double().t() + 2.0 * (x @ down.t()) @ up.t()

        _compare(finding, str(kind)[6:], ours, exactly, [x, down, up], _draw(made, rows, out), (1, 2))
    yield finding
