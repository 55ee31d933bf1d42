"""In-memory stock copy of the model in training, for the fast generation loop.

Layers in training differ from stock ones: they have adapters, fused computations, and weights lowered by autocast. An
exported checkpoint has none of that. This builds the same in memory: a stock talker that shares unchanged weights with
the model in training.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from job.fast import attention
from job.generation.stack import Unknown
from job.generation.talker import FastTalker
from job.train.adapt import merged_weights

#: Parts of the talker that the loop does not use: its texts are already embedded.
_UNREAD = ("model.text_embedding.", "text_projection.")


class Voice:
    """The fast generation loop with the model's current weights; does not change the model.

    It takes memory for weights that are not shared: adapted ones, those in another dtype, and those the loop fuses. All
    of it is freed with this object.

    Args:
        model: an unsharded `Qwen3TTSForConditionalGeneration`. Under autocast to bf16, generation runs in bf16, like
            the checkpoint; otherwise in fp32.

    Raises:
        Unknown: the loop does not support this kind of model.
    """

    def __init__(self, model: Any) -> None:
        self._device = model.talker.device.type
        lowered = torch.is_autocast_enabled(self._device)
        lowered = lowered and torch.get_autocast_dtype(self._device) == torch.bfloat16
        self._kind = torch.bfloat16 if lowered else torch.float32
        with torch.autocast(self._device, enabled=False):
            self._fast = FastTalker(published(model, self._kind))

    def generate(self, **arguments: Any) -> Any:
        """Call `FastTalker.generate`, with prompts of any dtype, inside or outside autocast."""
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                arguments[name] = value.to(self._kind)
        with torch.autocast(self._device, enabled=False):
            return self._fast.generate(**arguments)


@torch.no_grad()
def published(model: Any, kind: torch.dtype) -> Any:
    """Build a stock talker in eval mode from the model's weights, with adapters merged in, in dtype `kind`.

    Raises:
        Unknown: the weights do not fit a stock talker, or are not finite.
    """
    talker = model.talker
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in merged_weights(model):
        short = name.removeprefix("talker.")
        if short == name:
            continue
        if short.startswith(_UNREAD):
            weights[short] = tensor
            continue
        if not bool(torch.isfinite(tensor).all()):
            raise Unknown("weights that are not numbers")
        weights[short] = tensor.to(kind)
    config = copy.deepcopy(talker.config)
    if config._attn_implementation == attention.NAME:
        config._attn_implementation = {"": "sdpa"}  # what it uses for unpacked calls
    with torch.device("meta"):  # no initialisation and no memory
        stock = type(talker)(config)
    try:
        stock.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise Unknown("weights of other names or shapes") from error
    for ours, theirs in ((stock, talker), (stock.code_predictor, talker.code_predictor)):
        ours.generation_config = theirs.generation_config
        ours.model.rotary_emb = theirs.model.rotary_emb  # its table is not a weight
    return stock.requires_grad_(False).eval()
