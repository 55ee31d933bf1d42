"""Adapters as they are after some training."""

from __future__ import annotations

import torch


@torch.no_grad()
def move(model):
    """Draw the halves that start at zero, which would hide a lost gradient."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.05)
