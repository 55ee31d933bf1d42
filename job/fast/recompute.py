"""Activation checkpointing (GRADIENT_CHECKPOINTING), by torch's `checkpoint`.

`selective` recomputes each layer's MLP and the norm in front of it in the backward pass. They hold more than half of
what a layer keeps, and cost two of its seven matrix products: the third one's result is in no gradient, and torch stops
once it has what it needs. `true` recomputes whole layers.

torch's `create_selective_checkpoint_contexts` would keep less, but asks in Python for every operation what to keep: a
step took an H200 longer than with whole layers recomputed (benchmarks/RESULTS.md).

Recomputation uses the same operations and random numbers, so losses and gradients are identical to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from job.fast.changes import Changes

Forward = Callable[[torch.Tensor], torch.Tensor]


def use(talker: Any, changes: Changes) -> None:
    """Checkpoint the MLPs of talker and sub-talker, as the modules in them compute by now, adapters included."""
    draws = _draws(talker)
    for decoder in (talker.model, talker.code_predictor.model):
        for layer in decoder.layers:
            norm, mlp = layer.post_attention_layernorm, layer.mlp
            changes.set(mlp, "forward", partial(_forward, norm.forward, mlp.forward, draws))
            changes.set(norm, "forward", _pass)  # `_forward` has it in front of the MLP, to recompute it as well


def use_whole_layers(talker: Any, changes: Changes) -> None:
    """Use transformers' own checkpointing: only each layer's input is saved (GRADIENT_CHECKPOINTING=true)."""
    for module in talker.modules():
        if hasattr(module, "gradient_checkpointing"):
            changes.keep(module, "gradient_checkpointing", "_gradient_checkpointing_func")
    talker.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": _draws(talker)})


def _draws(talker: Any) -> bool:
    """Whether layers have dropout: then recomputation needs the state of random numbers, which takes time to keep."""
    return any(getattr(m, "attention_dropout", 0) or (isinstance(m, nn.Dropout) and m.p > 0) for m in talker.modules())


def _pass(hidden: torch.Tensor) -> torch.Tensor:
    return hidden


def _forward(norm: Forward, mlp: Forward, draws: bool, hidden: torch.Tensor) -> torch.Tensor:
    """The MLP of the normed (..., D) -> (..., D); `draws`: whether it draws random numbers."""
    if not torch.is_grad_enabled():
        return mlp(norm(hidden))
    result = checkpoint(
        lambda x: mlp(norm(x)), hidden, use_reentrant=False, preserve_rng_state=draws, determinism_check="none"
    )
    assert isinstance(result, torch.Tensor)
    return result
