"""A model's loss as training takes it, its modules changed as training changes them."""

from __future__ import annotations

from typing import Any

import torch

from job import fast
from job.config.settings import Settings
from job.loss.batch import Batch
from job.loss.objective import Objective


def objective_of(model: Any, settings: Settings | None = None, *, bf16: bool = False) -> Objective:
    """Of a model that may have been changed so before; `bf16` under autocast."""
    if not fast.is_applied(model):
        fast.apply(model, settings or Settings(), model.talker.device, "bf16" if bf16 else "no")
    return Objective(model)


def talker_pass(objective: Objective, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the talker's loss is taken of.

    Returns:
        logits (M, V) of the labelled positions only, hidden states (B * L, D), and of every frame the code embeddings
        that are fed to the sub-talker (F, codebooks - 1, D).
    """
    hidden, codebooks = objective._talker_states(batch, torch.arange(len(batch.frames), device=batch.frames.device))
    return objective.talker.codec_head(hidden[batch.label_positions]), hidden, codebooks


def sub_talker_pass(objective: Objective, hidden: torch.Tensor, codebooks: torch.Tensor) -> list[torch.Tensor]:
    """What the sub-talker's loss is taken of.

    Args:
        hidden: (N, D) hidden state before each frame.
        codebooks: (N, codebooks - 1, D) code embeddings of the frame.

    Returns:
        for head i the logits (N, V) of codebook i + 1.
    """
    states = objective._sub_talker_states(objective._sub_talker_inputs(hidden, codebooks))
    heads = objective.talker.code_predictor.lm_head
    return [head(of_codebook) for head, of_codebook in zip(heads, states.unbind(1), strict=True)]
