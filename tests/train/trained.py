"""A model's loss as training takes it, its modules changed as training changes them."""

from __future__ import annotations

from typing import Any

from job.config.settings import Settings
from job.train import fast
from job.train.objective import Objective


def objective_of(model: Any, settings: Settings | None = None, *, bf16: bool = False) -> Objective:
    """Of a model that may have been changed so before; `bf16` under autocast."""
    if not fast.is_applied(model):
        fast.apply(model, settings or Settings(), model.talker.device, "bf16" if bf16 else "no")
    return Objective(model)
