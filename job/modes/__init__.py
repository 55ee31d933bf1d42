"""Values of TRAIN_MODE, each a file of its own. A new one is such a file, and a line here (or a call of `register`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from job.modes.full import Full
from job.modes.layers import Layers
from job.modes.lora import Lora
from job.modes.train_mode import TrainMode

if TYPE_CHECKING:
    from job.config.settings import Settings

_MODES: dict[str, TrainMode] = {}


def register(mode: TrainMode) -> None:
    """Let TRAIN_MODE have another value; one of the same name is replaced."""
    _MODES[mode.name] = mode


def unregister(name: str) -> None:
    """Take a value away."""
    del _MODES[name]


def known() -> list[str]:
    """The values that TRAIN_MODE can have."""
    return list(_MODES)


def mode_of(settings: Settings) -> TrainMode:
    """The mode that TRAIN_MODE names."""
    return _MODES[settings.train_mode]


register(Lora())
register(Full())
register(Layers())
