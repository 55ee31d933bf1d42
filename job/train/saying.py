"""The model in training, as it would be published, for the loop over frames that speaks fast.

Layers in training compute in other ways than stock ones: adapters beside them, passes put together, weights that
autocast lowers. The checkpoint that would be written has none of that. Here it is made in memory: a stock talker that
shares with the model in training what the two have in common.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from job.generation.stack import Unknown
from job.generation.talker import FastTalker
from job.train import attention
from job.train.adapt import merged_weights

#: Parts of the talker that the loop does not read: texts come to it embedded.
_UNREAD = ("model.text_embedding.", "text_projection.")


class Voice:
    """A loop over frames with the model's weights as they are now; nothing of the model is changed.

    It takes the memory of the weights that are not shared: adapted ones, those of another type, and those that the loop
    puts together. All of it is free again when this is let go of.

    Args:
        model: a `Qwen3TTSForConditionalGeneration` with whole (unsharded) weights. Under autocast to bf16, speech is in
            bf16 as the checkpoint is; otherwise in fp32.

    Raises:
        Unknown: the model is of a kind that the loop was not written for.
    """

    def __init__(self, model: Any) -> None:
        self._device = model.talker.device.type
        lowered = torch.is_autocast_enabled(self._device)
        lowered = lowered and torch.get_autocast_dtype(self._device) == torch.bfloat16
        self._kind = torch.bfloat16 if lowered else torch.float32
        with torch.autocast(self._device, enabled=False):
            self._fast = FastTalker(published(model, self._kind))

    def generate(self, **arguments: Any) -> Any:
        """As `FastTalker.generate`, for prompts of any type, within autocast or not."""
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                arguments[name] = value.to(self._kind)
        with torch.autocast(self._device, enabled=False):
            return self._fast.generate(**arguments)


@torch.no_grad()
def published(model: Any, kind: torch.dtype) -> Any:
    """A stock talker in eval mode with the model's weights, adapters added in, in the type `kind`.

    Raises:
        Unknown: the weights do not fit a stock talker, or are not numbers.
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
        config._attn_implementation = {"": "sdpa"}  # what it is in calls that are not packed
    with torch.device("meta"):  # nothing is drawn, and no memory taken
        stock = type(talker)(config)
    try:
        stock.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise Unknown("weights of other names or shapes") from error
    for ours, theirs in ((stock, talker), (stock.code_predictor, talker.code_predictor)):
        ours.generation_config = theirs.generation_config
        ours.model.rotary_emb = theirs.model.rotary_emb  # its table is no weight
    return stock.requires_grad_(False).eval()
