"""Attention against exact arithmetic: the talker's over packed samples, and the sub-talker's over frames."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from gpu.case import Context, Finding, apart
from job.fast import attention

BF16, FP32 = torch.bfloat16, torch.float32
#: How far the worst row (a head's values at a position) may be: of the output, and of the gradients.
TOLERANCE = {FP32: (1e-3, 1e-3), BF16: (2e-2, 4e-2)}
#: Heads, key heads, and values a head of both released models; and for a CPU.
HEADS, SMALL_HEADS = (16, 8, 128), (4, 2, 16)
#: Frames of the sub-talker that are computed together; a few numbers, since kernels may be planned for each.
FRAMES, SMALL_FRAMES = (1024, 1000, 513), (20, 7)


def packed(context: Context) -> Iterator[Finding]:
    """Samples of 1 to 2000 positions in one row, in the types of training with and without MIXED_PRECISION."""
    heads = SMALL_HEADS if context.small else HEADS
    made = torch.Generator(context.device).manual_seed(0)
    for lengths in ([1, 40, 3, 17], [25]) if context.small else (_lengths(8192), [700], _lengths(8000)):
        for kind in (BF16, FP32):
            finding = Finding(f"attention, packed, {sum(lengths)} positions, {str(kind)[6:]}")
            query, key, value = (
                _draw(made, (1, count, sum(lengths), heads[2]), kind) for count in (heads[0], *[heads[1]] * 2)
            )
            bounds = torch.tensor([0, *lengths], device=context.device).cumsum(0).to(torch.int32)

            def attend(
                query: torch.Tensor,
                key: torch.Tensor,
                value: torch.Tensor,
                bounds: torch.Tensor = bounds,
                lengths: list[int] = lengths,
            ) -> torch.Tensor:
                module: Any = SimpleNamespace()
                samples = attention.Samples(bounds, lengths)
                return attention.attend(module, query, key, value, None, scaling=heads[2] ** -0.5, samples=samples)[0]

            if context.on_gpu and kind == BF16:
                repeats = attention._repeats(*heads, kind, query.device)
                finding.figures["key heads repeated"] = repeats
                finding.holds("one kernel", repeats > 0, "torch's variable-length attention is not used")
            _compare(finding, attend, [query, key, value], lengths, made)
            yield finding


def of_frames(context: Context) -> Iterator[Finding]:
    """16 positions of each of a thousand frames, by whatever kernel torch chooses."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    heads = SMALL_HEADS if context.small else HEADS
    made = torch.Generator(context.device).manual_seed(0)
    module: Any = SimpleNamespace(num_key_value_groups=heads[0] // heads[1], is_causal=True)
    for kind in (BF16, FP32):
        finding = Finding(f"attention, sub-talker, {str(kind)[6:]}")
        for frames in SMALL_FRAMES if context.small else FRAMES:
            tensors = [_draw(made, (frames, count, 16, heads[2]), kind) for count in (heads[0], heads[1], heads[1])]

            def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
                return sdpa_attention_forward(module, query, key, value, None, scaling=heads[2] ** -0.5)[0]

            _compare(finding, attend, tensors, [16], made)
        if context.on_gpu:
            finding.holds("cuDNN off", not torch.backends.cuda.cudnn_sdp_enabled(), "cuDNN's attention may be used")
        yield finding


def _lengths(total: int) -> list[int]:
    """Lengths as speech has them that add up to `total`: one very short, one very long."""
    random = torch.Generator().manual_seed(total)
    lengths = [1, 2000]
    while sum(lengths) < total:
        drawn = int((torch.randn((), generator=random) * 0.7 + 4.3).exp())
        lengths.append(max(1, min(drawn, total - sum(lengths))))
    return lengths


def _draw(made: torch.Generator, shape: tuple[int, ...], kind: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=made, device=made.device).to(kind)


def _compare(finding: Finding, attend: Any, tensors: list[torch.Tensor], lengths: list[int], made: Any) -> None:
    """Output and gradients of `attend` against the formula in fp64, sample by sample."""
    given = [t.detach().requires_grad_() for t in tensors]
    output = attend(*given)
    gradient = _draw(made, tuple(output.shape), output.dtype)
    found = [output, *torch.autograd.grad(output, given, gradient)]
    precise = [t.detach().double().requires_grad_() for t in tensors]
    exact = _exactly(precise, lengths)
    expected = [exact, *torch.autograd.grad(exact, precise, gradient.double())]
    for name, one, other in zip(("output", "by query", "by key", "by value"), found, expected, strict=True):
        bound = TOLERANCE[tensors[0].dtype][name != "output"]
        off = apart(one, other)
        finding.most(name, max(off, finding.figures.get(name, 0.0)) if off == off else off, bound)


def _exactly(given: list[torch.Tensor], lengths: list[int]) -> torch.Tensor:
    """Query, key and value, (B, heads, T, D) and key heads -> (B, T, heads, D)."""
    query, key, value = given
    repeats = query.shape[1] // key.shape[1]
    parts = []
    for q, k, v in zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True):
        k, v = (t.repeat_interleave(repeats, dim=1) for t in (k, v))
        scores = (q * query.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        ahead = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
        parts.append(scores.masked_fill(ahead, -torch.inf).softmax(dim=-1) @ v)
    return torch.cat(parts, dim=2).transpose(1, 2)
