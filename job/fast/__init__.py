"""The single place where a model's stock computation is replaced by faster or more memory-efficient versions.

`apply` makes these changes in order, and what it returns can undo them all:

1. compiled decoder layers: TORCH_COMPILE (`compiled`);
2. attention within the samples of a packed row (`attention`);
3. RMS norms by torch's own kernel (`norms`);
4. LoRA's products by fewer operations (`adapters`), except in compiled layers, where the compiler fuses the passes;
5. activation checkpointing: GRADIENT_CHECKPOINTING (`recompute`).

Modules, weights and names stay the same: only attributes of modules, such as `forward`, are set. So a checkpoint is a
plain copy of the weights. Adapters and new layers must exist already (`job.train.adapt`).
"""

from __future__ import annotations

from typing import Any

import torch

from job.config.settings import Settings
from job.fast import adapters, attention, compiled, norms, recompute
from job.fast.changes import Changes

#: Attribute set on a talker while the changes are applied.
_MARK = "computes_fast"


def apply(model: Any, settings: Settings, device: torch.device, precision: str) -> Changes:
    """Apply the computation changes that the settings ask for.

    Args:
        model: a `Qwen3TTSForConditionalGeneration`, adapted; changed in place.
        device: where it will be trained.
        precision: the resolved MIXED_PRECISION.

    Returns:
        the changes, whose `undo()` restores the stock model.

    Raises:
        RuntimeError: the changes are already applied.
    """
    talker, changes = model.talker, Changes()
    if is_applied(model):
        raise RuntimeError("the model's modules are changed already; undo that first")
    changes.set(talker, _MARK, True)
    layers = compiled.use(talker, device, changes) if settings.torch_compile else []
    attention.use(talker, changes)
    norms.use(talker, changes)
    adapters.use(talker, changes, lowers=precision == "bf16", leave=layers)
    if settings.gradient_checkpointing == "selective":
        recompute.use(talker, changes)
    elif settings.gradient_checkpointing:
        recompute.use_whole_layers(talker, changes)
    return changes


def is_applied(model: Any) -> bool:
    """Return whether the changes are applied to a model."""
    return getattr(model.talker, _MARK, False)
