"""The stock layers' RMS norms by torch's own: on a GPU one fused kernel, which keeps its input and a scale for a row.

The stock norm is five operations, of which autograd keeps several times the input. A layer's norms also give their
result in the type that autocast would lower it to for each of the products that read it, a copy for each of them.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F

from job.train.changes import Changes


def use(talker: Any, changes: Changes) -> None:
    """Let the norms of a talker and its sub-talker compute so. TORCH_COMPILE fuses these as it would the stock ones."""
    from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSRMSNorm

    for decoder in (talker.model, talker.code_predictor.model):
        for module in decoder.modules():
            if type(module) is Qwen3TTSRMSNorm:
                forward = _norm if module is decoder.norm else _lowered_norm
                changes.set(module, "forward", MethodType(forward, module))


def _norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    """(..., D) -> (..., D), in the type of input and weight together, as the stock norm."""
    return _normed(self, x, torch.promote_types(x.dtype, self.weight.dtype))


def _lowered_norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    """The same in autocast's type: of the residual stream computed in fp32, of queries and keys as they are."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return _norm(self, x)
    lower = torch.get_autocast_dtype(device)
    return _normed(self, x, lower) if x.dtype == lower else _norm(self, x).to(lower)


def _normed(self: Any, x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """In the type `kind`, which autocast would change on some devices; the kernel sums in fp32 in any case."""
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(x.to(kind), self.weight.shape, self.weight.to(kind), self.variance_epsilon)
