"""Which results of a layer are kept for its backward pass: GRADIENT_CHECKPOINTING=selective.

torch's selective checkpointing, with a rule of which operations' results are worth their memory. Kept are queries, keys
and values as the products give them, what attention gives and its own product. Computed again are the MLP, whose three
tensors are half of what a layer would keep and cost two of its seven products, and all that is cheap: norms, rotation,
gating, casts. Checkpointing whole layers (`true`) computes all products and attention again.
The same operations compute them, with the same random numbers, so that losses and gradients are the same to the bit.
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
#: Attention, whose backward pass wants its result and a sum for each head: on a GPU, on a CPU, and of packed rows.
_ATTENTION = (
    "aten::_scaled_dot_product_",
    "aten::_flash_attention_forward",
    "aten::_efficient_attention_forward",
    "torch_attn::_varlen_attn",
)
#: A product of so much fewer terms than values is cheap: the second one of an adapter.
_FEW_TERMS = 4


def use(talker: Any, changes: Changes) -> None:
    """Let the layers of talker and sub-talker keep less, adapters and all that is in them."""
    # With dropout, the random numbers of the forward pass are needed again; to keep their state costs a little.
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
    """Transformers' own checkpointing: of a layer, its input alone is kept (GRADIENT_CHECKPOINTING=true)."""
    for module in talker.modules():
        if hasattr(module, "gradient_checkpointing"):
            changes.keep(module, "gradient_checkpointing", "_gradient_checkpointing_func")
    talker.gradient_checkpointing_enable({"use_reentrant": False})


def _policy(inner: int, context: Any, operation: Any, *inputs: Any, **named: Any) -> CheckpointPolicy:
    """Whether the result of an operation of a layer is kept; `inner` is the MLP's width, by which its products show."""
    kept = operation.name().startswith(_ATTENTION)
    if operation in _PRODUCTS:
        terms, values = inputs[-1].shape
        kept = inner not in (terms, values) and values <= _FEW_TERMS * terms
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
