"""Registry of training modes (values of TRAIN_MODE). To add one, write a module and list it here or `register` it."""

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
    """Register a mode; one with the same name is replaced."""
    _MODES[mode.name] = mode


def unregister(name: str) -> None:
    """Remove a mode."""
    del _MODES[name]


def known() -> list[str]:
    """List the valid values of TRAIN_MODE."""
    return list(_MODES)


def mode_of(settings: Settings) -> TrainMode:
    """Return the mode that TRAIN_MODE names."""
    return _MODES[settings.train_mode]


register(Lora())
register(Full())
register(Layers())
