"""RMS norms by torch's `rms_norm`: one fused kernel on a GPU, which saves only its input and one scale per row.

The stock norm is five operations, for which autograd saves several times the input. Norms inside a layer also return
their result in autocast's dtype, which saves one lowered copy for each product that reads it.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F

from job.fast.changes import Changes


def use(talker: Any, changes: Changes) -> None:
    """Replace the norms of a talker and its sub-talker. TORCH_COMPILE fuses these as well as the stock ones."""
    from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSRMSNorm

    for decoder in (talker.model, talker.code_predictor.model):
        for module in decoder.modules():
            if type(module) is Qwen3TTSRMSNorm:
                forward = _norm if module is decoder.norm else _lowered_norm
                changes.set(module, "forward", MethodType(forward, module))


def _norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Normalise (..., D) in the promoted dtype of input and weight, as the stock norm does."""
    return _normed(self, x, torch.promote_types(x.dtype, self.weight.dtype))


def _lowered_norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Normalise and return autocast's dtype: the residual stream in fp32 before lowering, queries and keys directly."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return _norm(self, x)
    lower = torch.get_autocast_dtype(device)
    return _normed(self, x, lower) if x.dtype == lower else _norm(self, x).to(lower)


def _normed(self: Any, x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """Normalise in dtype `kind`, with autocast off (it changes the dtype on some devices); sums are always in fp32."""
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(x.to(kind), self.weight.shape, self.weight.to(kind), self.variance_epsilon)
