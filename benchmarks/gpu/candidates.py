"""Faster computations that are not in the job yet, each in its place in a training step, against what the job does.

Own code for speed is in the job only where a GPU has shown what it gains (benchmarks/README.md). What is here gives the
same results on a CPU (`tests/benchmarks/test_candidates.py`); one that gains 5 % of a step on a GPU is to be moved into
`job/train`, and one that does not is to be deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, NamedTuple

import torch

from job.fast import attention

#: The stock functions by which the talker's and the sub-talker's layers turn queries and keys.
_TURNS = ("apply_multimodal_rotary_pos_emb", "apply_rotary_pos_emb")


class Angles(NamedTuple):
    """Cosine and sine of each position's angles, (1 or B, 1, T, head_dim / 2) each: both halves have the same."""

    cos: torch.Tensor
    sin: torch.Tensor


@contextmanager
def turned_by_halves(talker: Any) -> Iterator[None]:
    """Rotary embedding by fewer operations: angles joined once for all layers, and each half of a head written at once.

    The stock functions join the three sections' angles anew in every layer, and turn a head by eight operations over
    its whole width, each of which is a kernel. Counted by benchmarks/traffic.py, this saves a tenth of the kernels.
    """
    from qwen_tts.core.models import modeling_qwen3_tts as stock

    functions = {name: getattr(stock, name) for name in _TURNS}
    scaling = talker.model.layers[0].self_attn.rope_scaling
    sections = {_TURNS[0]: (scaling["mrope_section"], scaling["interleaved"]), _TURNS[1]: ()}
    embeddings = dict(zip(_TURNS, (talker.model.rotary_emb, talker.code_predictor.model.rotary_emb), strict=True))
    for name, function in functions.items():
        setattr(stock, name, _handing_over(function))
        embeddings[name].forward = MethodType(_angles(function, sections[name]), embeddings[name])
    try:
        yield
    finally:
        for name, function in functions.items():
            setattr(stock, name, function)
            del embeddings[name].forward


def _handing_over(function: Callable[..., Any]) -> Callable[..., Any]:
    """A stock function that turns by halves where it is given `Angles`."""

    def turn(query: torch.Tensor, key: torch.Tensor, cos: Any, sin: Any, *others: Any, **named: Any) -> Any:
        if isinstance(cos, Angles):
            return _Turned.apply(query, key, *cos)  # type: ignore[no-untyped-call]
        return function(query, key, cos, sin, *others, **named)

    return turn


def _angles(function: Callable[..., Any], sections: tuple[Any, ...]) -> Callable[..., Any]:
    """A rotary embedding's `forward` that returns `Angles` and nothing in training."""

    def forward(self: Any, hidden: torch.Tensor, position_ids: torch.Tensor) -> tuple[Any, Any]:
        cos, sin = type(self).forward(self, hidden, position_ids)
        if not (self.training and torch.is_grad_enabled()):
            return cos, sin
        # Turned by the stock function, (1, 0) becomes (cos, sin): so its own code joins the sections.
        half = cos.shape[-1] // 2
        unit = torch.cat([cos.new_ones(half), cos.new_zeros(half)]).expand(1, 1, 1, -1)
        with torch.no_grad():
            turned, _ = function(unit, unit, cos, sin, *sections)
        return Angles(*turned.split(half, dim=-1)), None

    return forward


class _Turned(torch.autograd.Function):
    """Queries and keys (B, heads, T, head_dim), in the promoted dtype of them and the angles."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.types = query.dtype, key.dtype
        return _by(query, cos, sin, 1), _by(key, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Turn the gradients back."""
        cos, sin = ctx.saved_tensors
        by_query, by_key = (_by(g, cos, sin, -1).to(kind) for g, kind in zip(gradients, ctx.types, strict=True))
        return by_query, by_key, None, None


def _by(values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, direction: int) -> torch.Tensor:
    """Halves (a, b) become (a cos - b sin, b cos + a sin), or the other way round for a `direction` of -1."""
    turned = torch.empty_like(values, dtype=torch.promote_types(values.dtype, cos.dtype))
    (a, b), (first, second) = values.chunk(2, dim=-1), turned.chunk(2, dim=-1)
    torch.mul(a, cos, out=first).addcmul_(b, sin, value=-direction)
    torch.mul(b, cos, out=second).addcmul_(a, sin, value=direction)
    return turned


@contextmanager
def frames_by_products(talker: Any) -> Iterator[None]:
    """Sub-talker attention as plain batched products over a frame's 16 positions.

    Flash attention works in blocks of 64 or 128 positions, most of which a frame leaves empty, and pads the gradient of
    its queries to them.
    """
    stands = attention.attend

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **named: Any) -> Any:
        length = query.shape[2]
        if named.get("samples") is not None or length > 32 or length != key.shape[2] or not torch.is_grad_enabled():
            return stands(module, query, key, value, mask, **named)
        device = query.device.type
        if torch.is_autocast_enabled(device):
            query, key, value = (t.to(attention._kind(device)) for t in (query, key, value))
        with torch.autocast(device, enabled=False):
            return _by_products(query, key, value, named.get("scaling")).transpose(1, 2), None

    from transformers import AttentionInterface

    AttentionInterface.register(attention.NAME, attend)
    try:
        yield
    finally:
        AttentionInterface.register(attention.NAME, stands)


def _by_products(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    """Causal attention (N, heads, T, head_dim) over keys and values of as many or fewer heads; softmax in fp32."""
    count, heads, length, width = query.shape
    groups = key.shape[1]
    # The query heads that share a key head stand one below the other: no key is repeated.
    rows = query.reshape(count, groups, heads // groups * length, width)
    scores = (rows @ key.transpose(-1, -2)).float() * (width**-0.5 if scale is None else scale)
    ahead = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1).repeat(heads // groups, 1)
    weights = scores.masked_fill(ahead, -torch.inf).softmax(-1).to(value.dtype)
    return (weights @ value).view(count, heads, length, width)


#: What is compared: name, and what to train inside.
ALL: dict[str, Callable[[Any], Any]] = {
    "turned by halves": turned_by_halves,
    "frames' attention by products": frames_by_products,
}
