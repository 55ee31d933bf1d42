"""Guard that stops training in its first step if the sub-talker gets no gradients, which no loss would show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from job.core.errors import TrainingStopped


def sub_talker_gradients(model: Any) -> dict[str, float]:
    """Return the gradient norm of each trained parameter that only the sub-talker's loss reaches; 0 without a gradient.

    These are its layers, input projection and heads, but not its embeddings: those are fed to the talker as well, and
    get a gradient from there even if the sub-talker is not trained.
    """
    return {
        name: 0.0 if parameter.grad is None else float(parameter.grad.detach().float().norm())
        for name, parameter in model.talker.code_predictor.named_parameters()
        if parameter.requires_grad and "codec_embedding" not in name
    }


def check_sub_talker(gradients: Mapping[str, float], weight: float, codebooks: int) -> None:
    """Stop if the sub-talker learns nothing. Call in the first step, and after other parameters are unfrozen.

    A model in which only the talker learns says the right words as noise, and its total loss falls all the same.

    Args:
        gradients: from `sub_talker_gradients`; empty when the sub-talker is frozen, which is fine. Single zeros are
            fine too (an adapter's A before the first step), but not those of a whole head.
        weight: SUB_TALKER_LOSS_WEIGHT; nothing is checked at 0.
        codebooks: number of codebooks of the model; nothing is checked with one.

    Raises:
        TrainingStopped: no parameter, or no parameter of a trained head, has a gradient.
    """
    if not gradients or weight == 0 or codebooks < 2:
        return
    advice = "set SUB_TALKER_LOSS_WEIGHT=0 if that is meant; otherwise this is a fault of the training code, report it"
    if not any(gradients.values()):
        raise TrainingStopped(
            f"none of the sub-talker's {len(gradients)} trained tensors gets a gradient in the first step: {advice}"
        )
    heads: dict[str, float] = {}
    for name, norm in gradients.items():
        if name.startswith("lm_head."):
            head = name.split(".")[1]
            heads[head] = heads.get(head, 0.0) + norm
    dead = [head for head, norm in heads.items() if norm == 0.0]
    if dead:
        raise TrainingStopped(
            f"the sub-talker's heads {', '.join(dead)} (of {len(heads)}) get no gradient in the first step: {advice}"
        )
