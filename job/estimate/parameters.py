"""Count the base model's parameters, and how many of them a run trains, from the headers of its weight files."""

from __future__ import annotations

import math
from typing import Any

from job.config.settings import Settings
from job.estimate.activations import Shapes
from job.estimate.flops import Work
from job.model import loading


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

    def size(keep: Any) -> int:
        return sum(math.prod(shape) for name, shape in shapes.items() if keep(name))

    projection = size(lambda n: ".text_projection." in n) if settings.train_text_projection else 0
    everything = projection + size(
        lambda n: n.startswith("talker.") and ".text_embedding." not in n and ".text_projection." not in n
    )
    if settings.sub_talker_loss_weight == 0 or Work.of(shapes).books < 2:
        everything -= size(lambda n: n.startswith("talker.code_predictor.") and ".codec_embedding." not in n)
        settings = settings.model_copy(update={"lora_sub_talker": False})
    if settings.train_mode == "full":
        return everything
    layers = sorted({int(n.split(".")[3]) for n in shapes if n.startswith("talker.model.layers.")})
    if settings.train_mode == "layers":
        last = set(layers[len(layers) - settings.replace_last_n_layers :]) if settings.replace_last_n_layers else set()
        frozen = [n for n in layers if settings.freeze_original_layers and n not in last]
        one = size(lambda n: n.startswith("talker.model.layers.0."))
        return everything + one * (settings.add_new_layers - len(frozen))
    return projection + sum(settings.lora_r * (shape[0] + shape[1]) for shape in adapted(settings, shapes))


def adapted(settings: Settings, shapes: Shapes) -> list[tuple[int, ...]]:
    """Shapes of the weights that get adapters with TRAIN_MODE=lora."""
    parts = ["q_proj", "k_proj", "v_proj", "o_proj"] + (
        ["gate_proj", "up_proj", "down_proj"] if settings.lora_mlp else []
    )
    roots = ["talker.model.layers."] + (["talker.code_predictor.model.layers."] if settings.lora_sub_talker else [])
    heads = ["talker.codec_head."] + (["talker.code_predictor.lm_head."] if settings.lora_sub_talker else [])
    return [
        shape
        for name, shape in shapes.items()
        if (name.startswith(tuple(roots)) and name.endswith(tuple(f"{part}.weight" for part in parts)))
        or (settings.lora_heads and name.startswith(tuple(heads)))
    ]
