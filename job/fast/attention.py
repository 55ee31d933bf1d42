"""Causal attention within each sample of a packed row.

Positions restart with every sample, and a position attends only to itself and earlier positions of its own sample. On a
GPU torch's `varlen_attn` computes this in one kernel; elsewhere attention runs sample by sample, which wastes no work
across samples either. The stock layers call it through transformers' registry of attention functions.
"""

from __future__ import annotations

import inspect
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from job.core.console import warn
from job.core.errors import first_line
from job.core.out_of_memory import is_out_of_memory
from job.fast.changes import Changes

if TYPE_CHECKING:
    from job.loss.batch import Batch

#: Name of `attend` in transformers' registry.
NAME = "packed"
#: Sample lengths the fused kernel is tested on: a single position, odd lengths, and a batch of typical size.
_TRIED_ON = [5, 40, 1, 130, 1027, 389, 700]
#: Largest allowed relative error: norm of the difference over the norm of the expected result.
_TOLERANCE = 0.02


class Samples:
    """Boundaries of the samples in a packed row. (No dataclass: torch.compile would make a graph per set of lengths.)

    Args:
        bounds: (S + 1,) int32, on the device: the start of each sample, and the end of the last one.
        lengths: S lengths that add up to T.
    """

    def __init__(self, bounds: torch.Tensor, lengths: list[int]) -> None:
        self.bounds, self.lengths = bounds, lengths


def use(talker: Any, changes: Changes) -> None:
    """Make the talker's and sub-talker's layers use `attend` instead of torch's SDPA.

    Calls that are not packed, such as `generate`'s, still go to SDPA. Other implementations that were explicitly chosen
    (`eager`, `flash_attention_2`) are kept; `arguments` supports them too.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if NAME not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, _mask)
    for config in (talker.model.config, talker.code_predictor.model.config):
        if config._attn_implementation in (None, "sdpa"):
            before = {"": config._attn_implementation}  # this config's layers only, not its sub-configs'
            changes.also(partial(setattr, config, "_attn_implementation", before))
            config._attn_implementation = {"": NAME}


def leave_uncompiled(changes: Changes) -> None:
    """Exclude attention from the compiled graphs of layers: each set of lengths would need its own graph."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, torch.compiler.disable(attend))  # type: ignore[no-untyped-call]
    changes.also(partial(AttentionInterface.register, NAME, attend))


def arguments(config: Any, batch: Batch) -> dict[str, Any]:
    """Return the talker's forward arguments besides embeddings, for the attention implementation of `config`."""
    if batch.lengths is None:
        return {"attention_mask": batch.attention_mask}
    kept: dict[str, Any] = {"attention_mask": None, "position_ids": batch.position_ids}
    implementation = config._attn_implementation
    if implementation == NAME:
        return {**kept, "samples": Samples(batch.bounds, batch.lengths)}
    if implementation.startswith("flash"):
        longest = max(batch.lengths)
        lengths = {"max_length_q": longest, "max_length_k": longest}
        return {**kept, "cu_seq_lens_q": batch.bounds, "cu_seq_lens_k": batch.bounds, **lengths}
    mask = block_diagonal(batch.bounds, batch.position_ids.shape[1])
    additive = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, torch.finfo(torch.float32).min)
    return {**kept, "attention_mask": additive}


def block_diagonal(bounds: torch.Tensor, total: int) -> torch.Tensor:
    """Build the attention mask of a packed row.

    Args:
        bounds: (S + 1,) the start of each sample, and the end of the last one.
        total: positions of the row.

    Returns:
        (1, 1, total, total) true where the position (third axis) attends to another (fourth).
    """
    position = torch.arange(total, device=bounds.device)
    sample = torch.bucketize(position, bounds[1:], right=True)
    within = (sample[:, None] == sample[None]) & (position[:, None] >= position[None])
    return within[None, None]


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    samples: Samples | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Compute causal attention within the samples of a packed row, with transformers' attention function signature.

    Under autocast a GPU computes in the lower precision, whatever dtype rotary embedding returned; a CPU computes in
    fp32, because the backward pass of torch's CPU kernel is several times slower in bf16.

    Args:
        query: (1, heads, T, head_dim).
        key, value: (1, key_value_heads, T, head_dim).
        samples: of a packed row.

    Returns:
        (1, T, heads, head_dim), and None in place of the attention weights.
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):
        query, key, value = (t.to(_kind(device)) for t in (query, key, value))
        with torch.autocast(device, enabled=False):
            return attend(
                module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, samples=samples, **others
            )
    if samples is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return, no-untyped-call]
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
    lowered = query.dtype in (torch.bfloat16, torch.float16)
    repeats = 0
    if query.is_cuda and lowered and dropout == 0.0:
        repeats = _repeats(query.shape[1], key.shape[1], query.shape[3], query.dtype, query.device)
    if repeats:
        return _varlen(query, key, value, samples.bounds, max(samples.lengths), scaling, repeats), None
    return _sample_by_sample(query, key, value, samples.lengths, scaling, dropout), None


def _kind(device: str) -> torch.dtype:
    """Return the dtype attention computes in under autocast."""
    return torch.float32 if device == "cpu" else torch.get_autocast_dtype(device)


def _sample_by_sample(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sample_lengths: list[int],
    scaling: float | None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Apply torch's SDPA to each sample of the row separately; shapes as in `attend`."""
    parts = zip(*(torch.split(t, sample_lengths, dim=2) for t in (query, key, value)), strict=True)
    shared = query.shape[1] != key.shape[1]
    outputs = [
        F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=shared)
        for q, k, v in parts
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2)


@cache
def _repeats(heads: int, key_value_heads: int, width: int, dtype: torch.dtype, device: torch.device) -> int:
    """How often to repeat each key head for the fused kernel: 1 if it supports grouped heads itself, 0 if it fails.

    The API is new, and which kernels it uses depends on the GPU: a wrong or missing one must cost speed, not the voice.
    """
    reason = ""
    for repeats in sorted({1, heads // key_value_heads}):
        reason = _problem(heads, key_value_heads, width, dtype, device, repeats)
        if not reason:
            return repeats
    warn("train", f"torch's variable-length attention is not used: {reason}; attention is computed sample by sample")
    return 0


def _problem(
    heads: int, key_value_heads: int, width: int, dtype: torch.dtype, device: torch.device, repeats: int
) -> str:
    """Say why the fused kernel cannot be used; empty if forward and backward match plain fp32 attention.

    Raises:
        RuntimeError: out of memory, which says nothing about the kernel; the step is retried with smaller pieces.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    lengths, total = _TRIED_ON, sum(_TRIED_ON)
    bounds = torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)
    made = torch.Generator(device).manual_seed(0)

    def draw(count: int) -> torch.Tensor:
        return torch.randn(1, count, total, width, generator=made, device=device).to(dtype).requires_grad_()

    def as_it_is(tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    tensors = (draw(heads), draw(key_value_heads), draw(key_value_heads))

    def differentiated(output: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return output.detach(), *torch.autograd.grad(output.float().square().sum(), tensors)

    plain = torch.autocast(device.type, enabled=False)  # autocast would lower the precision of the reference result
    try:
        # A checkpointed layer counts the tensors autograd saves inside it; only the innermost pair of hooks is called,
        # so these hide the test's own saved tensors from it.
        hidden = torch.autograd.graph.saved_tensors_hooks(as_it_is, as_it_is)
        with plain, torch.enable_grad(), hidden:
            found = differentiated(_varlen(*tensors, bounds, max(lengths), None, repeats))
            query, key, value = (t.float() for t in tensors)  # gradients are returned in the tensors' own dtype
            with sdpa_kernel(SDPBackend.MATH):
                right = differentiated(_sample_by_sample(query, key, value, lengths, None))
    except (RuntimeError, TypeError, ImportError, AttributeError) as error:  # no such kernel, or not on this GPU
        if is_out_of_memory(error):
            raise
        return first_line(error)
    pairs = ((a.double(), b.double()) for a, b in zip(found, right, strict=True))
    return "" if all(bool((a - b).norm() <= _TOLERANCE * b.norm()) for a, b in pairs) else "its results differ"


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scaling: float | None,
    repeats: int,
) -> torch.Tensor:
    """Run `varlen_attn` over a row: (1, heads, T, head_dim) in, (1, T, heads, head_dim) out.

    Args:
        repeats: how often each key head is repeated: once, or once per query head that shares it.
    """
    from torch.nn.attention.varlen import varlen_attn

    # A window of 0 positions ahead and unlimited positions behind is causal attention.
    extra: dict[str, Any] = {"scale": scaling, "window_size": (-1, 0)}
    if query.shape[1] != key.shape[1] * repeats and "enable_gqa" in inspect.signature(varlen_attn).parameters:
        extra["enable_gqa"] = True

    def by_position(t: torch.Tensor) -> torch.Tensor:
        return t.squeeze(0).transpose(0, 1).contiguous()  # undoes the transpose of attention's callers: no copy

    def repeated(t: torch.Tensor) -> torch.Tensor:
        return by_position(t).repeat_interleave(repeats, dim=1) if repeats > 1 else by_position(t)

    output = varlen_attn(by_position(query), repeated(key), repeated(value), bounds, bounds, longest, longest, **extra)
    assert isinstance(output, torch.Tensor)
    return output.unsqueeze(0)


def _mask(*, attention_mask: torch.Tensor | None = None, **others: Any) -> torch.Tensor | None:
    """Build SDPA's mask for an unpacked call. Without padding or a cache, attention is causal or packed: no mask."""
    from transformers.masking_utils import sdpa_mask

    if attention_mask is None and len(others["cache_position"]) == others["kv_length"]:
        return None
    mask: torch.Tensor | None = sdpa_mask(attention_mask=attention_mask, **others)
    return mask
