"""What tests of the layers share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from job.demo.base import build
from job.model.loading import load_model

# The first backward pass of a process starts a thread for each kind of device that is known by then, and a process with
# such threads cannot be forked for tests of two processes. Tests whose tensors pretend to be a GPU's make one known,
# so the first backward pass is made here, when tests are collected.
torch.ones(1, requires_grad=True).sum().backward()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def stock_talker(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Talker and sub-talker of other widths than the built-in ones, norms' weights not all one."""
    base = build(
        tmp_path_factory.mktemp("base"), hidden_size=48, heads=4, key_value_heads=2, head_dim=12,
        sub_talker_hidden_size=32, sub_talker_layers=1, codebooks=4,
    )  # fmt: skip
    talker = load_model(base, torch.device("cpu"), torch.float32).model.talker
    made = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in talker.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=made))
    return talker
