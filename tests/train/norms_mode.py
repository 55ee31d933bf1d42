"""An example of a mode of training: only norms are trained."""

from __future__ import annotations

from typing import Any

from job.config.settings import Settings
from job.core.errors import BadInput
from job.modes.train_mode import Shapes, TrainMode, size


class Norms(TrainMode):
    """TRAIN_MODE=norms."""

    name = "norms"

    def check(self, settings: Settings, layers: int) -> None:
        if not settings.lora_mlp:
            raise BadInput("LORA_MLP=false: there are no adapters; unset it")

    def select(self, model: Any, settings: Settings) -> None:
        for name, parameter in model.talker.named_parameters():
            parameter.requires_grad_("norm" in name)

    def trained_values(self, settings: Settings, shapes: Shapes) -> int:
        return size(shapes, lambda name: name.startswith("talker.") and "norm" in name)
