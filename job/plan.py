"""What a run will take: steps, memory and disk, from the settings and the prepared data, before anything is rented."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from job import models
from job.console import say
from job.prepare.dataset import read_summary
from job.settings import Settings

#: Bytes a trained parameter: fp32 weight, gradient and two moments of AdamW.
TRAINED_BYTES = 16
#: Bytes a frozen parameter in bf16.
FROZEN_BYTES = 2


@dataclass(frozen=True)
class Plan:
    """Figures of a run. Memory is of weights and optimizer; activations come on top (they grow with the batch)."""

    rows: int
    hours: float
    steps_per_epoch: int
    steps: int
    parameters: int
    trained: int
    state_bytes: int
    checkpoint_bytes: int


def estimate(settings: Settings) -> Plan:
    """Work the figures out.

    Raises:
        BadInput: there is no prepared data yet, or no base model.
    """
    train = read_summary(settings.paths)["splits"]["train"]
    per_step = settings.batch_size * settings.gradient_accumulation_steps
    per_epoch = math.ceil(math.ceil(train["rows"] / settings.batch_size) / settings.gradient_accumulation_steps)
    if settings.tokens_per_batch:
        per_epoch = math.ceil(train["frames"] / settings.tokens_per_batch / settings.gradient_accumulation_steps)
    parameters, trained = parameter_counts(settings)
    return Plan(
        rows=train["rows"],
        hours=train["seconds"] / 3600,
        steps_per_epoch=max(1, per_epoch if per_step else 0),
        steps=settings.max_steps or settings.num_epochs * max(1, per_epoch),
        parameters=parameters,
        trained=trained,
        state_bytes=state_bytes(settings),
        checkpoint_bytes=parameters * FROZEN_BYTES,
    )


def parameter_counts(settings: Settings) -> tuple[int, int]:
    """Parameters of the base model, and how many values are trained (adapters and added layers included)."""
    shapes = _shapes(settings)
    return sum(math.prod(shape) for shape in shapes.values()), _trained(settings, shapes)


def state_bytes(settings: Settings) -> int:
    """Memory of weights, gradients and optimizer, in bytes.

    Frozen weights are kept in bf16; in fp32 where everything else is trained, or nothing computes in bf16.
    """
    parameters, trained = parameter_counts(settings)
    lowered = settings.mixed_precision in ("auto", "bf16") and settings.train_mode != "full"
    frozen_bytes = FROZEN_BYTES if lowered else 2 * FROZEN_BYTES
    return trained * TRAINED_BYTES + max(0, parameters - trained) * frozen_bytes


def print_plan(settings: Settings) -> None:
    """Print the estimate."""
    plan = estimate(settings)
    say("plan", f"{plan.rows} rows, {plan.hours:.2f} h; {plan.steps_per_epoch} steps an epoch, {plan.steps} in all")
    share = 100 * plan.trained / plan.parameters
    say("plan", f"{plan.parameters / 1e6:,.1f} M parameters, {plan.trained / 1e6:,.2f} M trained ({share:.1f} %)")
    say("plan", f"{plan.state_bytes / 1e9:.2f} GB for weights, gradients and optimizer; activations come on top")
    say("plan", f"{plan.checkpoint_bytes / 1e9:.2f} GB a bf16 checkpoint; best, last and one in writing at a time")


def _shapes(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights, from the headers of the base's files."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(models.base_directory(settings).glob("*.safetensors")):
        with safe_open(str(path), framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118  # not a dict
                shapes[name] = tuple(weights.get_slice(name).get_shape())
    return shapes


def _trained(settings: Settings, shapes: dict[str, tuple[int, ...]]) -> int:
    """How many values are trained, by the rules of `job.train.adapt`."""

    def size(keep: Any) -> int:
        return sum(math.prod(shape) for name, shape in shapes.items() if keep(name))

    projection = size(lambda n: ".text_projection." in n) if settings.train_text_projection else 0
    everything = projection + size(
        lambda n: n.startswith("talker.") and ".text_embedding." not in n and ".text_projection." not in n
    )
    if settings.train_mode == "full":
        return everything
    layers = sorted({int(n.split(".")[3]) for n in shapes if n.startswith("talker.model.layers.")})
    if settings.train_mode == "layers":
        last = set(layers[len(layers) - settings.replace_last_n_layers :]) if settings.replace_last_n_layers else set()
        frozen = [n for n in layers if settings.freeze_original_layers and n not in last]
        one = size(lambda n: n.startswith("talker.model.layers.0."))
        return everything + one * (settings.add_new_layers - len(frozen))
    parts = ["q_proj", "k_proj", "v_proj", "o_proj"] + (
        ["gate_proj", "up_proj", "down_proj"] if settings.lora_mlp else []
    )
    roots = ["talker.model.layers."] + (["talker.code_predictor.model.layers."] if settings.lora_sub_talker else [])
    heads = ["talker.codec_head."] + (["talker.code_predictor.lm_head."] if settings.lora_sub_talker else [])
    adapted = [
        shape
        for name, shape in shapes.items()
        if (name.startswith(tuple(roots)) and name.endswith(tuple(f"{part}.weight" for part in parts)))
        or (settings.lora_heads and name.startswith(tuple(heads)))
    ]
    return projection + sum(settings.lora_r * (shape[0] + shape[1]) for shape in adapted)
