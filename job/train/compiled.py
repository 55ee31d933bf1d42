"""The decoder layers compiled by torch (TORCH_COMPILE): fewer passes over memory, and fewer kernels to launch.

A layer is compiled in two parts, all that is before its attention and all that is after. Attention itself stays as it
is: a packed row has other samples in every batch, which a compiled graph would be compiled for again and again. In the
two parts only the number of positions (talker) or frames (sub-talker) varies, and is declared to. All layers of a kind
share their graphs, so the cost of compiling does not grow with depth.

Modules, names and weights stay what they are; only a layer's `forward` is another, and only while it is trained:
without gradients or with a cache (evaluation, generation) stock code runs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any, cast

import torch
from torch import nn

from job.console import say, warn
from job.errors import BadInput, first_line
from job.train.kernels import attended, one_section

#: Graphs that torch may make of a part of a layer: one each for talker and sub-talker, for inputs and weights that are
#: trained or frozen, for every phase of PROGRESSIVE_STAGES, and on a CPU for a few ranges of lengths, because sums of
#: more than 4096 values are taken otherwise there. What would be more runs uncompiled: no run compiles for ever.
MOST_GRAPHS = 32
#: Positions (talker) and frames (sub-talker) that a layer is tried on, one after the other: the second is another
#: number, which must not need another graph.
TRIED_ON = {"positions": (320, 300), "frames": (128, 120)}


# ---- what is compiled ------------------------------------------------------------------------------------------------


def _normed(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """Stock `Qwen3TTSRMSNorm.forward`, whatever has been put in the place of the module's own."""
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = torch.rsqrt(precise.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
    return norm.weight * (precise * scale).to(x.dtype)  # type: ignore[no-any-return]


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding: x (..., heads, head_dim), cos and sin (..., 1, head_dim)."""
    one, other = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-other, one], dim=-1) * sin


def _before(
    layer: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (B, L, D), cos and sin (B or 1, L, head_dim) -> query, key and value (B, L, heads, head_dim)."""
    attention = layer.self_attn
    heads = (x.shape[0], x.shape[1], -1, attention.head_dim)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    normed = _normed(layer.input_layernorm, x)
    value = attention.v_proj(normed).view(heads)
    query = _rotated(_normed(attention.q_norm, attention.q_proj(normed).view(heads)), cos, sin)
    key = _rotated(_normed(attention.k_norm, attention.k_proj(normed).view(heads)), cos, sin)
    # Under autocast the norms give fp32. A GPU's attention takes the lower type; a CPU's is slow in it.
    kind = value.dtype if x.is_cuda else query.dtype
    return query.to(kind), key.to(kind), value.to(kind)


def _after(layer: Any, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """x (B, L, D) and what attention gives (B, L, heads * head_dim) -> the layer's output (B, L, D)."""
    mlp = layer.mlp
    x = x + layer.self_attn.o_proj(attended)
    normed = _normed(layer.post_attention_layernorm, x)
    return x + mlp.down_proj(mlp.act_fn(mlp.gate_proj(normed)) * mlp.up_proj(normed))  # type: ignore[no-any-return]


class _Parts:
    """Both parts of a layer, compiled for tensors whose axis `varying` may have any length from 2 on."""

    def __init__(self, varying: int) -> None:
        # One thread compiles: the pool of processes that torch would start otherwise stays as long as the run.
        options: dict[str, Any] = {"compile_threads": 1}
        self._varying = varying
        self._usable = True
        self._before = torch.compile(_before, dynamic=False, options=options)
        self._after = torch.compile(_after, dynamic=False, options=options)

    def fits(self, x: torch.Tensor) -> bool:
        """Whether the other axes are those that are always there: a padded batch has rows and positions."""
        return self._usable and x.shape[self._varying] > 1 and (self._varying == 0 or x.shape[0] == 1)

    def give_up(self, error: Exception) -> None:
        """Compute these layers uncompiled from now on."""
        self._usable = False
        warn("train", f"TORCH_COMPILE: layers go on uncompiled: {first_line(error)}")

    def before(
        self, layer: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`_before`, compiled."""
        self._declare(x, cos, sin)
        return self._before(layer, x, cos, sin)

    def after(self, layer: Any, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """`_after`, compiled."""
        self._declare(x, attended)
        return self._after(layer, x, attended)

    def _declare(self, *tensors: torch.Tensor) -> None:
        for tensor in tensors:
            if tensor.shape[self._varying] > 1:  # positions of the sub-talker's are the same for all frames
                torch._dynamo.mark_dynamic(tensor, self._varying)  # type: ignore[no-untyped-call]


# ---- how layers come to use it ---------------------------------------------------------------------------------------


def use(
    talker: nn.Module,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> bool:
    """Compile the decoder layers of a talker and its sub-talker for training, where that gives what stock code gives.

    A layer of each kind is tried first, on made-up states, forward and backward. If it cannot be compiled on this
    machine or gives something else, one line says so and all stay as they are: it must cost speed, not the run.

    Args:
        talker: as it will be trained, adapters and all; it may still be elsewhere than on `device`.
        device: where it will be trained.
        autocast: context of mixed precision, such as `accelerator.autocast`.

    Returns:
        whether layers are compiled now.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
    start = time.monotonic()
    chosen = []
    for decoder, varying in _decoders(talker):
        layers = [layer for layer in decoder.layers if decoder.config._attn_implementation != "eager"]
        parts = _Parts(varying)
        for layer in _different(layers):
            problem = _problem(layer, decoder, parts, varying, device, autocast)
            if problem:
                warn("train", f"TORCH_COMPILE: training goes on uncompiled: {problem}")
                return False
        chosen += [(layer, parts) for layer in layers]
    for layer, parts in chosen:
        layer.forward = MethodType(_forward_by(parts), layer)
    say("train", f"compiled {len(chosen)} layers in {time.monotonic() - start:.0f} s")
    return bool(chosen)


def _decoders(talker: Any) -> list[tuple[Any, int]]:
    """The stacks of layers, each with the axis of its states that varies: positions of a packed row, or frames."""
    return [(talker.model, 1), (talker.code_predictor.model, 0)]


def _different(layers: list[Any]) -> list[Any]:
    """One layer of each pattern of trained and frozen tensors: they have graphs of their own."""
    kinds = {tuple((n, p.requires_grad, p.dtype) for n, p in layer.named_parameters()): layer for layer in layers}
    return list(kinds.values())


def _forward_by(parts: _Parts) -> Callable[..., Any]:
    from torch._dynamo.exc import TorchDynamoException

    def forward(
        self: Any,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        output_attentions: bool | None = False,
        use_cache: bool | None = False,
        cache_position: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **others: Any,
    ) -> Any:
        """The layer's `forward`."""
        trained = self.training and torch.is_grad_enabled()
        plain = position_embeddings is not None and past_key_values is None and not output_attentions
        if trained and plain and parts.fits(hidden_states):
            try:
                return _compute(parts, self, hidden_states, attention_mask, cast(Any, position_embeddings), **others)
            except TorchDynamoException as error:  # of a graph that was not tried: another phase, other lengths
                parts.give_up(error)
        return type(self).forward(
            self, hidden_states, attention_mask, position_ids, past_key_values, output_attentions, use_cache,
            cache_position, position_embeddings, **others,
        )  # fmt: skip

    return forward


def _compute(
    parts: _Parts,
    layer: Any,
    x: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **others: Any,
) -> tuple[torch.Tensor]:
    """The layer's output (B, L, D), as the stock layer returns it."""
    query, key, value = parts.before(layer, x, *one_section(position_embeddings))
    with torch.autocast(x.device.type, enabled=False):  # they are in the type that they are to be in
        output, _ = attended(layer.self_attn, query, key, value, attention_mask, **others)
    return (parts.after(layer, x, output),)


# ---- whether it works here -------------------------------------------------------------------------------------------


def _problem(
    layer: Any,
    decoder: Any,
    parts: _Parts,
    varying: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> str:
    """Why a layer cannot be compiled, in one line; empty if it can. The layer and all random states are left alone."""
    copied = copy.deepcopy(layer).to(device).train()
    drops = any(isinstance(m, nn.Dropout) and m.p > 0 for m in copied.modules())
    lowered = next(p.dtype for p in copied.parameters()) != torch.float32
    stock = type(layer).forward
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad(), autocast():
            # In bf16 the order of roundings alone makes gradients differ by up to 1 %; a mistake is larger than both.
            tolerance = 5e-2 if lowered or torch.is_autocast_enabled(device.type) else 1e-4
            for count in TRIED_ON["positions" if varying else "frames"]:
                x, places = _made_up(decoder, varying, count, device)
                expected = _result(lambda t, p=places: stock(copied, t, position_embeddings=p), copied, x)
                found = _result(lambda t, p=places: _compute(parts, copied, t, None, p), copied, x)
                for one, other in zip(expected, found, strict=True):
                    if not bool(torch.isfinite(other).all()):
                        return "it gives values that are not numbers"
                    if not drops and (one - other).norm() > tolerance * one.norm() + 1e-6:
                        return "it gives other values than uncompiled"
    except Exception as error:  # whatever a compiler that is this young may raise
        return first_line(error)
    return ""


def _made_up(
    decoder: Any, varying: int, count: int, device: torch.device
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Random states (1, count, D) of the talker or (count, books, D) of the sub-talker, and cos and sin for them."""
    shape = (1, count) if varying else (count, decoder.config.num_code_groups)
    x = torch.randn(*shape, decoder.config.hidden_size, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(shape[1])[None]
    if varying:
        positions = positions.expand(3, 1, -1)
    cos, sin = copy.deepcopy(decoder.rotary_emb).cpu()(x, positions)
    return x.to(device), (cos.to(device), sin.to(device))


def _result(forward: Callable[..., Any], layer: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """A layer's output and all its gradients, of a loss that weighs every value differently, in fp32."""
    x = x.clone().requires_grad_()
    (output,) = forward(x)
    weights = torch.linspace(-1, 1, output.numel(), device=output.device).view(output.shape)
    trained = [p for p in layer.parameters() if p.requires_grad]
    loss = (output.float() * weights).sum()
    gradients = torch.autograd.grad(loss, [x, *trained], allow_unused=True, materialize_grads=True)
    return [output.detach().float(), *(g.float() for g in gradients)]


def check(device: torch.device) -> None:
    """Compile something small and see it work, forward and backward: compiler, headers, and a place for the result.

    Raises:
        BadInput: it does not.
    """
    x = torch.linspace(-1, 1, 64, device=device).requires_grad_()
    try:
        function = torch.compile(lambda t: torch.sin(t) * t, options={"compile_threads": 1})
        (found,) = torch.autograd.grad(function(x).sum(), x)
        right = torch.allclose(found, torch.cos(x) * x + torch.sin(x), atol=1e-5)
        problem = "" if right else "a compiled function gives wrong values"
    except Exception as error:  # whatever compilers and the file system may raise
        problem = first_line(error)
        if _no_compiler(error):
            raise BadInput(
                f"TORCH_COMPILE=true: there is no {'C' if device.type == 'cuda' else 'C++'} compiler (gcc and g++, or "
                "what CC and CXX name); install one, build the image with WITH_COMPILER=1, or unset it"
            ) from error
    if problem:
        raise BadInput(f"TORCH_COMPILE=true: nothing can be compiled here: {problem}; unset it")


def _no_compiler(error: BaseException | None) -> bool:
    """Inductor's and triton's words for it, in the error or in what led to it."""
    while error is not None:
        if type(error).__name__ == "InvalidCxxCompiler" or "Failed to find C compiler" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
