"""Initialisation of codec embedding rows for languages the base model lacks (see `embedding_rows.language_rows`)."""

from __future__ import annotations

from typing import Any

import torch

from job.config.settings import Settings
from job.text import languages


def initialise(model: Any, rows: dict[str, int], settings: Settings) -> None:
    """Initialise the new rows from LANGUAGE_INIT's row, or if unset from the mean of the known languages' rows.

    Raises:
        BadInput: the base model does not know LANGUAGE_INIT.
    """
    if not rows:
        return
    known = model.config.talker_config.codec_language_id or {}
    table = model.talker.model.codec_embedding.weight
    start = languages.start_of_new(settings, known)
    source = list(known.values()) if start is None else [known[start]]
    if not source:
        source = [model.config.talker_config.codec_nothink_id]
    table.data = table.data.float()  # new rows are trained: start at the exact mean, not rounded to bf16
    with torch.no_grad():
        mean = table[source].cpu().mean(0)  # the same on every device
        for row in rows.values():
            table[row] = mean


def train_only(table: torch.nn.Parameter, rows: list[int]) -> None:
    """Let gradients reach only `rows` of an embedding that is otherwise frozen.

    The optimizer gets the whole table; the other rows' gradients are zero, and so are their moments, so that AdamW
    without weight decay leaves them unchanged to the bit.
    """
    mask = torch.zeros(table.shape[0], 1, device=table.device)
    mask[rows] = 1.0
    table.requires_grad_(True)

    def only_rows(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal mask
        mask = mask.to(gradient)  # only once: a copy to a GPU would wait for the whole backward pass
        return gradient * mask

    table.register_hook(only_rows)  # type: ignore[no-untyped-call]
