"""The stock layers' norms, rotation and gating with less memory and fewer passes over it.

Autograd keeps what every single operation of `x * rsqrt(mean(x^2) + eps) * w` or `silu(gate) * up` needs, several
times the size of the input. What is needed to differentiate the whole is the input. The functions here and in `norms`
give the same values as the stock code (in fp32 but for the last bits, in bf16 but for some casts) and work on any
device.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from job.train import norms, recompute


class _Rotation(torch.autograd.Function):
    """y = x * cos + x.roll(half) * sin, with the sign of the rotation in the first half of `sin`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        first, second = sin.chunk(2, -1)
        return _turned(x, cos, first, second).to(kind)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = gradients
        cos, sin = ctx.saved_tensors
        first, second = sin.chunk(2, -1)
        return _turned(gradient, cos, second, first), None, None, None


def _turned(x: torch.Tensor, cos: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """x * cos, each half of the last axis with the other one's share; rolling it would take two passes more."""
    one, other = x.chunk(2, -1)
    turned = x * cos
    for half, across, sin in zip(turned.chunk(2, -1), (other, one), (first, second), strict=True):
        half.addcmul_(across, sin)
    return turned


class _Gated(torch.autograd.Function):
    """y = silu(gate) * up."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = gradients
        gate, up = ctx.saved_tensors
        by_gate = torch.ops.aten.silu_backward(gradient * up, gate)
        return by_gate, F.silu(gate).mul_(gradient)


def use(talker: nn.Module) -> None:
    """Let the stock modules of a talker and its sub-talker compute by the functions above.

    The modules stay what they are, with their weights, adapters and names; only their `forward` is another.
    """
    from qwen_tts.core.models import modeling_qwen3_tts as stock

    attentions = (stock.Qwen3TTSTalkerAttention, stock.Qwen3TTSAttention)
    layers = (stock.Qwen3TTSTalkerDecoderLayer, stock.Qwen3TTSDecoderLayer)
    module: Any
    for module in talker.modules():
        if type(module) is stock.Qwen3TTSRMSNorm:
            module.forward = MethodType(_norm, module)
        elif type(module) in attentions:
            module.forward = MethodType(_attention, module)
        elif type(module) is stock.Qwen3TTSTalkerTextMLP and module.config.hidden_act in ("silu", "swish"):
            module.forward = MethodType(_mlp, module)
    for module in talker.modules():
        if type(module) in layers:
            for norm in (module.input_layernorm, module.post_attention_layernorm):
                norm.forward = MethodType(_shared_norm, norm)


def _norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    kind = torch.promote_types(hidden_states.dtype, self.weight.dtype)
    return norms.RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon, kind)  # type: ignore[no-any-return,no-untyped-call]


def _shared_norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """A norm that only products read: under autocast in its type, which each of them would make a copy in."""
    kind = _lowered(torch.promote_types(hidden_states.dtype, self.weight.dtype), hidden_states.device.type)
    return norms.RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon, kind)  # type: ignore[no-any-return,no-untyped-call]


def _lowered(kind: torch.dtype, device: str) -> torch.dtype:
    """The type that autocast gives inputs of `kind` to products."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) and kind == torch.float32 else kind


def _mlp(self: Any, x: torch.Tensor) -> torch.Tensor:
    with recompute.noting(self, x.device) as notes:
        if notes is None:
            return self.down_proj(_Gated.apply(self.gate_proj(x), self.up_proj(x)))  # type: ignore[no-any-return,no-untyped-call]
        recompute.note(x, norms.again)
        gate, up = notes.product(self.gate_proj, x), notes.product(self.up_proj, x)
        again = notes.again(gate), notes.again(up)
        gated = _Gated.apply(gate, up)  # type: ignore[no-untyped-call]
        notes.write(gated, lambda: _Gated.apply(*(part() for part in again)))  # type: ignore[no-untyped-call]
        return self.down_proj(gated)  # type: ignore[no-any-return]


def _precise_on_cpu(query: torch.Tensor) -> Any:
    """No autocast around attention on a CPU."""
    return nullcontext() if query.is_cuda else torch.autocast(query.device.type, enabled=False)


def _attention(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None,
    past_key_values: Any = None,
    cache_position: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`forward` of stock attention without a cache; with one, stock code runs."""
    if past_key_values is not None or self.config._attn_implementation == "eager":
        return type(self).forward(  # type: ignore[no-any-return]
            self, hidden_states, position_embeddings, attention_mask, past_key_values, cache_position, **others
        )
    shape = hidden_states.shape[:-1]
    heads = (*shape, -1, self.head_dim)
    cos, sin = one_section(position_embeddings)
    half = self.head_dim // 2
    cos, sin = cos.unsqueeze(2), torch.cat([-sin[..., :half], sin[..., half:]], dim=-1).unsqueeze(2)
    with recompute.noting(self, hidden_states.device):
        recompute.note(hidden_states, norms.again)
        query = self.q_norm(self.q_proj(hidden_states).view(heads))
        key = self.k_norm(self.k_proj(hidden_states).view(heads))
        # A GPU attends in autocast's type; a CPU in fp32: torch's kernel there goes backwards slowly in bf16.
        kind = _lowered(query.dtype, "cuda") if query.is_cuda else query.dtype

        def rotate(x: torch.Tensor) -> torch.Tensor:
            return _Rotation.apply(x, cos, sin, kind)  # type: ignore[no-any-return,no-untyped-call]

        recompute.note(query, norms.again)
        recompute.note(key, norms.again)
        query, key = (recompute.derived(rotate, x) for x in (query, key))
        value = self.v_proj(hidden_states).view(heads).to(kind)
        with _precise_on_cpu(query):
            output, weights = attended(self, query, key, value, attention_mask, **others)
        return self.o_proj(output.contiguous()), weights


def one_section(position_embeddings: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine (B, L, head_dim). The talker has them for three sections, which all count the same positions."""
    cos, sin = position_embeddings
    return (cos[0], sin[0]) if cos.dim() == 4 else (cos, sin)


def attended(
    attention: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **others: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Query, key and value (B, L, heads, head_dim) -> (B, L, heads * head_dim) and weights, as configured."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    output, weights = ALL_ATTENTION_FUNCTIONS[attention.config._attn_implementation](
        attention,
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attention_mask,
        dropout=attention.attention_dropout if attention.training else 0.0,
        scaling=attention.scaling,
        sliding_window=attention.sliding_window,
        **others,
    )
    return output.reshape(*query.shape[:2], -1), weights
