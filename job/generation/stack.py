"""Decoder layers that read a few positions at a time, with a preallocated key-value cache.

The weights are the modules' own: in each layer, matrices with the same input are put into one storage and the modules'
parameters become views of it, so that nothing is stored twice and stock code still works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

#: For each layer, two tensors (B, n, heads, width) that include the weights of the query and key norms: the normalised
#: x is rotated to `x * cos + x.roll(width / 2) * sin`.
Rotation = list[tuple[torch.Tensor, torch.Tensor]]
#: Positions whose places are looked up once: those of a frame, which the sub-talker goes through for every frame.
FEW = 64


class Unknown(Exception):
    """The model has a feature that this code does not support; the message names it."""


class Norm:
    """The stock RMS norm over the last axis.

    torch's own is one kernel on a GPU but eight operations on a CPU, where a shorter computation is used.

    Args:
        weight: (D,), or (heads, D) for `rotated`.
        eps: added to the mean square.
    """

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self.weight, self._eps = weight, eps
        self._width = weight.shape[-1]
        self._constant = torch.full((), eps, dtype=weight.dtype)
        self._short = weight.device.type == "cpu" and weight.dtype == torch.float32

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (..., D)."""
        if not self._short:
            return torch.rms_norm(x, [self._width], self.weight, self._eps)
        return (x * self._by_rms(x)).mul_(self.weight)

    def rotated(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Norm and rotary embedding of (B, n, heads, width); `cos` and `sin` include the norm's weight."""
        normed = x if self._short else torch.rms_norm(x, [self._width], None, self._eps)
        turned = torch.addcmul(normed * cos, normed.roll(self._width // 2, -1), sin)
        return turned.mul_(self._by_rms(x)) if self._short else turned

    def _by_rms(self, x: torch.Tensor) -> torch.Tensor:
        """1 / rms(x), (..., 1)."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return torch.addcmul(self._constant, norm, norm, value=1 / self._width).rsqrt_()


@dataclass
class _Layer:
    """The weights of a decoder layer, and its key-value cache."""

    before: Norm
    after: Norm
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    qk_norm: Norm
    out: tuple[torch.Tensor, torch.Tensor | None]
    gate_up: torch.Tensor
    down: tuple[torch.Tensor, torch.Tensor | None]
    activation: Callable[[torch.Tensor], torch.Tensor]
    keys: torch.Tensor
    values: torch.Tensor
    views: dict[tuple[int, int], tuple[torch.Tensor, ...]] = field(default_factory=dict)

    def place(self, start: int, end: int) -> tuple[torch.Tensor, ...]:
        """Views of the cache for the keys and values of new positions, and of all positions up to them."""
        found = self.views.get((start, end))
        if found is None:
            both = self.keys, self.values
            found = (*(t[:, :, start:end] for t in both), *(t[:, :, :end] for t in both))
            if end <= FEW:
                self.views[start, end] = found
        return found

    def keep(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Use other memory for the cache."""
        self.keys, self.values, self.views = keys, values, {}


class Stack:
    """The layers of a talker or sub-talker and their final norm.

    Args:
        decoder: `Qwen3TTSTalkerModel` or `Qwen3TTSTalkerCodePredictorModel`.

    Raises:
        Unknown: its layers have a feature that `step` does not support, or `step` gives different results.
    """

    def __init__(self, decoder: Any) -> None:
        config = decoder.config
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads
        attention = decoder.layers[0].self_attn
        self.width, self.scaling = attention.head_dim, attention.scaling
        self.norm, self.rotary = Norm(decoder.norm.weight, decoder.norm.variance_epsilon), decoder.rotary_emb
        _check(decoder)
        self.layers = [_layer(layer, self.heads + self.shared) for layer in decoder.layers[: config.num_hidden_layers]]
        self._norms = torch.stack([layer.qk_norm.weight for layer in self.layers])[:, None, None]
        self._rolled = self._norms.roll(self.width // 2, -1)
        self._compare(decoder)

    def reserve(self, batch: int, room: int) -> None:
        """Allocate the cache for `room` positions of `batch` sequences; the same sequences keep its contents."""
        for layer in self.layers:
            old = layer.keys, layer.values
            if old[0].shape[0] == batch and old[0].shape[2] >= room:
                continue
            size = (batch, self.shared, room, self.width)
            # Zeros: a masked position has weight 0, but 0 times NaN or infinity is not 0.
            layer.keep(*(layer.qkv.new_zeros(size) for _ in old))
            if old[0].shape[0] == batch:
                layer.keys[:, :, : old[0].shape[2]], layer.values[:, :, : old[0].shape[2]] = old

    def remember(self, past: Any) -> int:
        """Copy the keys and values of a transformers cache; returns its number of positions."""
        length = 0
        for layer, other in zip(self.layers, past.layers, strict=True):
            length = other.keys.shape[2]
            layer.keys[:, :, :length], layer.values[:, :, :length] = other.keys, other.values
        return length

    def rotation(self, positions: torch.Tensor) -> Rotation:
        """The rotary embedding of positions (B, n).

        Text and speech use the same positions, so the three sections of the talker's rotary embedding are identical.
        """
        sections = positions[None].expand(3, *positions.shape) if _is_talker(self.rotary) else positions
        cos, sin = self.rotary(self.layers[0].qkv, sections)
        if _is_talker(self.rotary):
            cos, sin = cos[0], sin[0]
        half = self.width // 2
        signed = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        # Of all layers at once: (layers, B, n, heads, width).
        by_cos, by_sin = self._norms * cos[:, :, None], self._rolled * signed[:, :, None]
        return list(zip(by_cos.unbind(0), by_sin.unbind(0), strict=True))

    def step(self, x: torch.Tensor, start: int, rotation: Rotation, mask: torch.Tensor | None) -> torch.Tensor:
        """Read the positions `start`, `start + 1`, ... of every sequence.

        Args:
            x: (B, n, D).
            rotation: of these positions, from `rotation`.
            mask: additive, (B or 1, 1, G * n or 1, start + n) with G query heads per key head, heads varying slower;
                None if all positions are attended to.

        Returns:
            (B, n, D) after the final norm.
        """
        batch, n, _ = x.shape
        end, groups = start + n, self.heads // self.shared
        both = self.heads + self.shared
        for layer, (cos, sin) in zip(self.layers, rotation, strict=True):
            qkv = F.linear(layer.before(x), layer.qkv, layer.qkv_bias).view(batch, n, -1, self.width)
            qk = layer.qk_norm.rotated(qkv[:, :, :both], cos, sin)
            query, key = qk.split([self.heads, self.shared], dim=2)  # type: ignore[no-untyped-call]
            new_keys, new_values, keys, values = layer.place(start, end)
            new_keys.copy_(key.transpose(1, 2))
            new_values.copy_(qkv[:, :, both:].transpose(1, 2))
            # Query heads that share a key head are treated as queries of one head, so that keys are read only once.
            if n == 1:
                query = query.view(batch, self.shared, groups, self.width)
            else:
                query = query.view(batch, n, self.shared, groups, self.width).permute(0, 2, 3, 1, 4)
                query = query.reshape(batch, self.shared, groups * n, self.width)
            read = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=self.scaling)
            if n > 1:
                read = read.view(batch, self.shared, groups, n, self.width).permute(0, 3, 1, 2, 4)
            x = F.linear(read.reshape(batch, n, -1), *layer.out).add_(x)
            gate, up = F.linear(layer.after(x), layer.gate_up).chunk(2, dim=-1)
            x = F.linear(layer.activation(gate).mul_(up), *layer.down).add_(x)
        return self.norm(x)

    @torch.no_grad()
    def _compare(self, decoder: Any) -> None:
        """Compare with the decoder itself on random positions: another release of it may compute something else."""
        like = self.layers[0].qkv
        made = torch.Generator().manual_seed(0)
        x = torch.randn(2, 4, decoder.config.hidden_size, generator=made).to(like)
        expected = decoder(inputs_embeds=x, use_cache=False).last_hidden_state
        self.reserve(2, 4)
        groups = self.heads // self.shared
        causal = torch.zeros(2, 2, dtype=like.dtype, device=like.device)
        causal[0, 1] = -torch.inf
        parts = []
        for start, end, mask in ((0, 2, causal.repeat(groups, 1)), (2, 3, None), (3, 4, None)):
            positions = torch.arange(start, end, device=like.device)[None]
            parts.append(self.step(x[:, start:end], start, self.rotation(positions), mask))
        self.forget()
        off = (torch.cat(parts, dim=1) - expected).float().norm() / expected.float().norm()
        if not off < (1e-3 if like.dtype == torch.float32 else 0.05):
            raise Unknown(f"layers whose results differ from stock code's by {float(off):.2g}")

    def forget(self) -> None:
        """Free the key-value cache."""
        for layer in self.layers:
            layer.keep(*(layer.qkv.new_zeros(0, 0, 0, 0) for _ in range(2)))


def _is_talker(rotary: Any) -> bool:
    return type(rotary).__name__ == "Qwen3TTSTalkerRotaryEmbedding"


def _check(decoder: Any) -> None:
    """Refuse configurations of the layers that `Stack` does not support."""
    from qwen_tts.core.models import modeling_qwen3_tts as stock

    for layer in decoder.layers:
        attention = layer.self_attn
        if type(layer) not in (stock.Qwen3TTSTalkerDecoderLayer, stock.Qwen3TTSDecoderLayer):
            raise Unknown(f"layers of type {type(layer).__name__}")
        if attention.sliding_window is not None:
            raise Unknown("attention with a sliding window")
        mlp = layer.mlp
        linear = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj)
        if any(type(module) is not nn.Linear for module in (*linear, mlp.down_proj)):
            raise Unknown("layers with adapters or other projections")
        if mlp.gate_proj.bias is not None or mlp.up_proj.bias is not None:
            raise Unknown("biases in the feed-forward layers")
    if decoder.rotary_emb.rope_type != "default":
        raise Unknown(f"rotary embeddings of type {decoder.rotary_emb.rope_type}")


def _layer(layer: Any, both: int) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    with torch.no_grad():
        qkv = joined([p.weight for p in projections])
        bias = None if projections[0].bias is None else joined([p.bias for p in projections])
        gate_up = joined([mlp.gate_proj.weight, mlp.up_proj.weight])
        heads = projections[0].out_features // attention.head_dim
        norms = [attention.q_norm.weight] * heads + [attention.k_norm.weight] * (both - heads)
    return _Layer(
        before=Norm(layer.input_layernorm.weight, layer.input_layernorm.variance_epsilon),
        after=Norm(layer.post_attention_layernorm.weight, layer.post_attention_layernorm.variance_epsilon),
        qkv=qkv,
        qkv_bias=bias,
        qk_norm=Norm(torch.stack(norms), attention.q_norm.variance_epsilon),
        out=(attention.o_proj.weight.data, attention.o_proj.bias),
        gate_up=gate_up,
        down=(mlp.down_proj.weight.data, mlp.down_proj.bias),
        activation=F.silu if isinstance(mlp.act_fn, nn.SiLU) else mlp.act_fn,
        keys=qkv.new_zeros(0, 0, 0, 0),
        values=qkv.new_zeros(0, 0, 0, 0),
    )


def joined(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """Concatenate the rows of parameters into one tensor and make the parameters views of it."""
    whole = torch.cat([p.data for p in parameters])
    for parameter, part in zip(parameters, whole.split([len(p) for p in parameters]), strict=True):  # type: ignore[no-untyped-call]
        parameter.data = part
    return whole
