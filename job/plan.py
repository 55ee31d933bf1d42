"""What a run will take: steps, memory and disk, from the settings and the prepared data, before anything is rented."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from job import models, optimizers
from job.console import say
from job.flops import Work
from job.prepare.dataset import read_summary
from job.settings import Settings

#: Bytes a frozen parameter in bf16.
FROZEN_BYTES = 2
#: GPUs that are rented: memory in GB, and dense bf16 FLOP/s of NVIDIA's data sheets.
GPUS = {
    "H200": (141, 989e12),
    "H100": (80, 989e12),
    "A100": (80, 312e12),
    "L40S": (48, 362e12),
    "RTX 4090": (24, 165e12),
    "L4": (24, 121e12),
}
#: Shares of that rate that training reaches, from small batches to large ones: what hours are estimated with.
UTILIZATION = (0.15, 0.40)
#: Share of a GPU's memory that weights and optimizer may take, so that some is left for activations.
STATE_SHARE = 0.8
#: Positions of a sample besides its frames: the text, and what stands in front.
TEXT_POSITIONS = 30


@dataclass(frozen=True)
class Plan:
    """Figures of a run. Memory is of weights and optimizer; activations come on top (they grow with the batch)."""

    rows: int
    hours: float
    processes: int
    steps_per_epoch: int
    steps: int
    parameters: int
    trained: int
    state_bytes: int
    checkpoint_bytes: int
    flops: float


def estimate(settings: Settings) -> Plan:
    """Work the figures out.

    Raises:
        BadInput: there is no prepared data yet, or no base model.
    """
    train = read_summary(settings.paths)["splits"]["train"]
    processes = settings.num_nodes * (1 if settings.num_gpus == "auto" else max(1, int(settings.num_gpus)))
    batches = math.ceil(train["rows"] / settings.batch_size)
    if settings.tokens_per_batch:
        positions = train["frames"] + TEXT_POSITIONS * train["rows"]
        batches = math.ceil(positions / settings.tokens_per_batch)
    per_epoch = max(1, math.ceil(batches / (settings.gradient_accumulation_steps * processes)))
    steps = settings.max_steps or settings.num_epochs * per_epoch
    shapes = _shapes(settings)
    parameters, trained = parameter_counts(settings)
    return Plan(
        rows=train["rows"],
        hours=train["seconds"] / 3600,
        processes=processes,
        steps_per_epoch=per_epoch,
        steps=steps,
        parameters=parameters,
        trained=trained,
        state_bytes=state_bytes(settings),
        checkpoint_bytes=parameters * FROZEN_BYTES,
        flops=steps / per_epoch * _epoch_flops(settings, shapes, train["rows"], train["frames"]),
    )


def hours_on(plan: Plan, gpu: str) -> tuple[float, float]:
    """Hours of training on that kind of GPU, from `UTILIZATION`'s better end to its worse."""
    rate = GPUS[gpu][1] * plan.processes
    low, high = UTILIZATION
    return plan.flops / rate / high / 3600, plan.flops / rate / low / 3600


def _readable(hours: float) -> str:
    """So many hours in words."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.0f} min" if hours >= 1 / 60 else "under a minute"


def _epoch_flops(settings: Settings, shapes: dict[str, tuple[int, ...]], rows: int, frames: int) -> float:
    """FLOPs of going through the data once, its samples taken to be of the same length."""
    work = Work.of(shapes)
    mean = frames / rows
    # Through frozen weights gradients only pass; an adapter's own products are few.
    backward = 1.0 if settings.train_mode == "lora" else 2.0
    return rows * work.of_sample(mean + TEXT_POSITIONS, mean, settings.sub_talker_frame_fraction, backward)


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
    lowered = lowered or optimizers.in_bf16(settings)
    frozen_bytes = FROZEN_BYTES if lowered else 2 * FROZEN_BYTES
    return round(trained * optimizers.trained_bytes(settings)) + max(0, parameters - trained) * frozen_bytes


def print_plan(settings: Settings) -> None:
    """Print the estimate."""
    plan = estimate(settings)
    say("plan", f"{plan.rows} rows, {plan.hours:.2f} h; {plan.steps_per_epoch} steps an epoch, {plan.steps} in all")
    if plan.processes > 1:
        say("plan", f"on {plan.processes} GPUs together")
    share = 100 * plan.trained / plan.parameters
    say("plan", f"{plan.parameters / 1e6:,.1f} M parameters, {plan.trained / 1e6:,.2f} M trained ({share:.1f} %)")
    say("plan", f"{plan.state_bytes / 1e9:.2f} GB for weights, gradients and optimizer; activations come on top")
    say("plan", f"{plan.checkpoint_bytes / 1e9:.2f} GB a bf16 checkpoint; best, last and one in writing at a time")
    low, high = UTILIZATION
    say("plan", f"{plan.flops:.2g} FLOPs; training where {high:.0%} to {low:.0%} of the data sheet's rate is reached:")
    shared = plan.processes if settings.distributed == "fsdp" else 1
    for gpu, (memory, _) in GPUS.items():
        if plan.state_bytes / shared > STATE_SHARE * memory * 1e9:
            say("plan", f"{gpu} {memory} GB: too small")
            continue
        best, worst = hours_on(plan, gpu)
        say("plan", f"{gpu} {memory} GB: {_readable(best)} to {_readable(worst)}")


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
