"""The one place where a model is made to compute in other ways than its stock modules: faster, or in less memory.

`apply` does all of it in this order, and what it returns takes all of it back:

1. what is kept for the backward pass: GRADIENT_CHECKPOINTING (`recompute`, or transformers' own);
2. decoder layers compiled: TORCH_COMPILE (`compiled`);
3. attention within the samples of a packed row (`attention`);
4. norms by torch's own kernel (`norms`);
5. products together with their adapters (`adapters`), outside of compiled layers, where the compiler joins the passes.

Modules, weights and names stay what they are: only attributes of modules, such as `forward`, are set. So a checkpoint
is a plain copy of the weights. Adapters and fresh layers must be there already (`job.train.adapt`).
"""

from __future__ import annotations

from typing import Any

import torch

from job.config.settings import Settings
from job.train import adapters, attention, compiled, norms, recompute
from job.train.changes import Changes

#: Set on a talker while it is changed.
_MARK = "computes_fast"


def apply(model: Any, settings: Settings, device: torch.device, precision: str) -> Changes:
    """Let a model compute as the settings ask.

    Args:
        model: a `Qwen3TTSForConditionalGeneration`, adapted; changed in place.
        device: where it will be trained.
        precision: what MIXED_PRECISION comes to.

    Returns:
        what `undo()` makes a stock model of again.

    Raises:
        RuntimeError: it computes so already.
    """
    talker, changes = model.talker, Changes()
    if is_applied(model):
        raise RuntimeError("the model's modules are changed already; undo that first")
    changes.set(talker, _MARK, True)
    if settings.gradient_checkpointing == "selective":
        recompute.use(talker, changes)
    elif settings.gradient_checkpointing:
        recompute.use_whole_layers(talker, changes)
    layers = compiled.use(talker, device, changes) if settings.torch_compile else []
    attention.use(talker, changes)
    norms.use(talker, changes)
    adapters.use(talker, changes, lowers=precision == "bf16", leave=layers)
    return changes


def is_applied(model: Any) -> bool:
    """Whether a model computes so now."""
    return getattr(model.talker, _MARK, False)
