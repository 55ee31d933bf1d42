"""Selective activation checkpointing (GRADIENT_CHECKPOINTING=selective).

torch's selective checkpointing, with a policy for which results are worth their memory. Saved are the query, key and
value projections, attention's result and its output projection. Recomputed are the MLP, whose three tensors are half of
what a layer would save and cost two of its seven matrix products, and everything cheap: norms, rotary embedding,
gating, casts. Checkpointing whole layers (`true`) recomputes all products and attention.
Recomputation uses the same operations and random numbers, so losses and gradients are identical to the bit.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from job.train.changes import Changes

_aten = torch.ops.aten
_PRODUCTS = {_aten.mm.default, _aten.addmm.default}
#: Attention operations, whose backward pass needs their result and per-head log-sums: on GPU, CPU and packed rows.
_ATTENTION = (
    "aten::_scaled_dot_product_",
    "aten::_flash_attention_forward",
    "aten::_efficient_attention_forward",
    "torch_attn::_varlen_attn",
)
#: A matrix product is cheap if its output is over this many times wider than its inner dimension, as in adapters.
_FEW_TERMS = 4


def use(talker: Any, changes: Changes) -> None:
    """Checkpoint the layers of talker and sub-talker selectively, including their adapters."""
    # With dropout, recomputation needs the forward pass's random numbers; saving their state has a small cost.
    draws = any(getattr(m, "attention_dropout", 0) or (isinstance(m, nn.Dropout) and m.p > 0) for m in talker.modules())
    for decoder in (talker.model, talker.code_predictor.model):
        rule = partial(_policy, decoder.config.intermediate_size)
        again = partial(
            checkpoint,
            use_reentrant=False,
            preserve_rng_state=draws,
            context_fn=partial(create_selective_checkpoint_contexts, rule),
        )
        for layer in decoder.layers:  # transformers' `GradientCheckpointingLayer`
            changes.set(layer, "gradient_checkpointing", True)
            changes.set(layer, "_gradient_checkpointing_func", again)


def use_whole_layers(talker: Any, changes: Changes) -> None:
    """Use transformers' own checkpointing: only each layer's input is saved (GRADIENT_CHECKPOINTING=true)."""
    for module in talker.modules():
        if hasattr(module, "gradient_checkpointing"):
            changes.keep(module, "gradient_checkpointing", "_gradient_checkpointing_func")
    talker.gradient_checkpointing_enable({"use_reentrant": False})


def _policy(inner: int, context: Any, operation: Any, *inputs: Any, **named: Any) -> CheckpointPolicy:
    """Decide whether to save an operation's result; `inner` is the MLP's width, which identifies its products."""
    kept = operation.name().startswith(_ATTENTION)
    if operation in _PRODUCTS:
        terms, values = inputs[-1].shape
        kept = inner not in (terms, values) and values <= _FEW_TERMS * terms
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
