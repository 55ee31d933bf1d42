"""Count the base model's parameters, and how many of them a run trains, from the headers of its weight files."""

from __future__ import annotations

import math

from job.config.settings import Settings
from job.estimate.flops import Work
from job.estimate.layer_bytes import Shapes
from job.model import loading
from job.modes import mode_of
from job.modes.train_mode import size


def shapes_of(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights, from the headers of the base model's files."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(loading.base_directory(settings).glob("*.safetensors")):
        with safe_open(str(path), framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118  # not a dict
                shapes[name] = tuple(weights.get_slice(name).get_shape())
    return shapes


def parameter_counts(settings: Settings, shapes: Shapes | None = None) -> tuple[int, int]:
    """The number of parameters of the base model, and of trained ones (including adapters and added layers)."""
    shapes = shapes_of(settings) if shapes is None else shapes
    return sum(math.prod(shape) for shape in shapes.values()), trained_values(settings, shapes)


def trained_values(settings: Settings, shapes: Shapes) -> int:
    """The number of trained parameters, by the rules of `job.train.adapt`."""
    projection = size(shapes, lambda name: ".text_projection." in name) if settings.train_text_projection else 0
    silent = settings.sub_talker_loss_weight == 0 or Work.of(shapes).codebooks < 2  # then the sub-talker is frozen
    left = {
        name: shape
        for name, shape in shapes.items()
        if ".text_projection." not in name
        and not (silent and name.startswith("talker.code_predictor.") and ".codec_embedding." not in name)
    }
    return projection + mode_of(settings).trained_values(settings, left)
