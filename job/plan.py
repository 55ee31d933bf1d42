"""What a run will take: steps, memory and disk, from the settings and the prepared data, before anything is rented."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from job import activations, lengths, models, optimizers
from job.activations import Load, Shapes, Types, Working
from job.console import say
from job.errors import BadInput
from job.flops import Work
from job.lengths import Lengths
from job.prepare.dataset import read_summary
from job.settings import Settings

#: Bytes of a parameter in a bf16 checkpoint.
SAVED_BYTES = 2
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
#: Bytes that CUDA itself, its libraries' workspaces and loaded kernels take.
CUDA_BYTES = 1_000_000_000
#: Bytes a value while adapters are merged, a matrix at a time: their product, it scaled, the weight, and the sum.
MERGED_BYTES = 16
#: Share of a GPU's memory that is left free, for what the allocator cannot hand out again.
HEADROOM = 0.05
#: A batch without data to tell its lengths: a second of speech.
SECOND = Load(positions=40, frames=13, samples=1, texts=20)


@dataclass(frozen=True)
class Memory:
    """Bytes on a GPU at the worst moment of a step, and what they are made of.

    Attributes:
        state: weights, gradients and optimizer, as `state_bytes`; a process's share where they are cut up.
        working: what computing a batch takes besides, gradients included.
        gradients: bytes of gradients that are in both.
        update: temporary copies, in the optimizer's step or while a LoRA checkpoint is merged.
    """

    state: int
    working: Working
    gradients: int
    update: int

    @property
    def on_top(self) -> int:
        """What comes on top of `state`, which is not all there yet at the peak of the activations."""
        computing = self.working.peak + self.working.in_kernels - self.gradients
        return max(computing, self.update, 0)

    @property
    def total(self) -> int:
        """All, CUDA's own included."""
        return self.state + self.on_top + CUDA_BYTES


@dataclass(frozen=True)
class Plan:
    """Figures of a run: `state_bytes` of weights, gradients and optimizer, `memory` of a GPU in the largest batch."""

    rows: int
    hours: float
    processes: int
    steps_per_epoch: int
    steps: int
    parameters: int
    trained: int
    state_bytes: int
    shapes: Shapes
    lengths: Lengths
    largest: Load
    memory: Memory
    checkpoint_bytes: int
    flops: float


def estimate(settings: Settings) -> Plan:
    """Work the figures out.

    Raises:
        BadInput: there is no prepared data yet, or no base model.
    """
    train = read_summary(settings.paths)["splits"]["train"]
    measured = Lengths.of(settings)
    processes = processes_of(settings)
    batches = math.ceil(train["rows"] / settings.batch_size)
    if settings.tokens_per_batch:
        batches = math.ceil(int(measured.positions.sum()) / settings.tokens_per_batch)
    per_epoch = max(1, math.ceil(batches / (settings.gradient_accumulation_steps * processes)))
    steps = settings.max_steps or settings.num_epochs * per_epoch
    shapes, largest = _shapes(settings), measured.largest(settings)
    parameters, trained = parameter_counts(settings, shapes)
    return Plan(
        rows=train["rows"],
        hours=train["seconds"] / 3600,
        processes=processes,
        steps_per_epoch=per_epoch,
        steps=steps,
        parameters=parameters,
        trained=trained,
        state_bytes=state_bytes(settings, shapes),
        shapes=shapes,
        lengths=measured,
        largest=largest,
        memory=memory(settings, largest, processes, shapes=shapes),
        checkpoint_bytes=parameters * SAVED_BYTES,
        flops=steps / per_epoch * _epoch_flops(settings, shapes, measured),
    )


def processes_of(settings: Settings) -> int:
    """GPUs that train together, as far as the settings tell."""
    return settings.num_nodes * (1 if settings.num_gpus == "auto" else max(1, int(settings.num_gpus)))


def memory(
    settings: Settings, load: Load, processes: int = 1, *, pieces: int = 1, shapes: Shapes | None = None
) -> Memory:
    """What training on such batches takes of each GPU.

    Args:
        load: the largest batch.
        processes: GPUs together; under DISTRIBUTED=fsdp they share weights, gradients and optimizer.
        pieces: into how many a batch is cut (as training does when memory runs out).
        shapes: of the base's weights, where they have been read before: finding the base may ask the Hub.

    Raises:
        BadInput: there is no base model.
    """
    shapes = _shapes(settings) if shapes is None else shapes
    trained = _trained(settings, shapes)
    types = Types.of(settings, new_languages=_new_languages(settings))
    sharded = settings.distributed == "fsdp" and processes > 1
    shared = processes if sharded else 1
    gradients = types.trained * trained // shared
    whole = pieces == 1 and settings.gradient_accumulation_steps == 1
    working = activations.working(shapes, settings, lengths.part(load, pieces), gradients, types=types, whole=whole)
    update = 0
    if settings.optimizer == "adamw":
        update = trained * types.trained // shared  # the roots of all second moments at once
    if settings.train_mode == "lora" and settings.export != "adapter":
        largest = max((math.prod(shape) for shape in adapted(settings, shapes)), default=0)
        update = max(update, MERGED_BYTES * largest - gradients)
    state = state_bytes(settings, shapes) // shared
    if sharded:
        state += types.trained * _gathered(shapes)
    return Memory(state, working, gradients, update)


def _gathered(shapes: Shapes) -> int:
    """Weights that each process has whole while it computes under DISTRIBUTED=fsdp: two layers, and all around them."""
    layers = [name for name in shapes if name.startswith("talker.model.layers.")]
    around = [n for n in shapes if n.startswith("talker.") and n not in layers and ".text_embedding." not in n]
    one = [name for name in layers if name.startswith("talker.model.layers.0.")]
    return sum(math.prod(shapes[name]) for name in around) + 2 * sum(math.prod(shapes[name]) for name in one)


def least_bytes(settings: Settings, processes: int = 1) -> int:
    """What training needs on a GPU besides CUDA's own, its batches cut into single samples if need be.

    The longest prepared sample; before there is data, a second of speech.
    """
    try:
        longest = Lengths.of(settings).longest()
    except BadInput:
        longest = SECOND
    found = memory(settings, longest, processes)
    return found.state + found.on_top


def pieces_on(settings: Settings, load: Load, processes: int, gpu: str, shapes: Shapes | None = None) -> int:
    """Into how many pieces a batch must be cut for that kind of GPU; 0 where even a single sample is too much."""
    usable = (1 - HEADROOM) * GPUS[gpu][0] * 1e9
    shapes = _shapes(settings) if shapes is None else shapes
    pieces = 1
    while memory(settings, load, processes, pieces=pieces, shapes=shapes).total > usable:
        if pieces >= load.samples or settings.distributed == "fsdp":
            return 0
        pieces = min(2 * pieces, load.samples)
    return pieces


def helps(settings: Settings, measured: Lengths, processes: int, shapes: Shapes | None = None) -> list[tuple[str, int]]:
    """(variable=value, total bytes) of what would take less memory, the most first."""
    changes: dict[str, dict[str, Any]] = {}
    if settings.tokens_per_batch:
        half = settings.tokens_per_batch // 2
        changes[f"TOKENS_PER_BATCH={half}"] = {"tokens_per_batch": half}
    elif settings.batch_size > 1:
        changes[f"BATCH_SIZE={settings.batch_size // 2}"] = {"batch_size": settings.batch_size // 2}
    if not settings.gradient_checkpointing and not settings.torch_compile:
        changes["GRADIENT_CHECKPOINTING=selective"] = {"gradient_checkpointing": "selective"}
    if settings.gradient_checkpointing is not True:
        changes["GRADIENT_CHECKPOINTING=true"] = {"gradient_checkpointing": True}
    if settings.train_mode != "lora":
        changes["TRAIN_MODE=lora"] = {"train_mode": "lora", "distributed": "ddp"}
        if settings.gradient_checkpointing is not True:
            both = {"train_mode": "lora", "distributed": "ddp", "gradient_checkpointing": True}
            changes["TRAIN_MODE=lora GRADIENT_CHECKPOINTING=true"] = both
    shapes = _shapes(settings) if shapes is None else shapes
    found = []
    now = memory(settings, measured.largest(settings), processes, shapes=shapes).total
    for name, values in changes.items():
        other = settings.model_copy(update=values)
        total = memory(other, measured.largest(other), processes, shapes=shapes).total
        if total < now:
            found.append((name, total))
    return sorted(found, key=lambda one: -one[1])


def _new_languages(settings: Settings) -> bool:
    """Whether prepared rows speak a language that the base has no row for, which then is trained."""
    try:
        spoken = read_summary(settings.paths)["languages"]
    except BadInput:
        return False
    return not all(entry["known"] for entry in spoken.values())


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


def _epoch_flops(settings: Settings, shapes: Shapes, measured: Lengths) -> float:
    """FLOPs of going through the data once, its samples taken to be of the same length."""
    work = Work.of(shapes)
    rows, mean = len(measured.frames), float(measured.frames.mean())
    # Through frozen weights gradients only pass; an adapter's own products are few.
    backward = 1.0 if settings.train_mode == "lora" else 2.0
    return rows * work.of_sample(measured.mean, mean, settings.sub_talker_frame_fraction, backward)


def parameter_counts(settings: Settings, shapes: Shapes | None = None) -> tuple[int, int]:
    """Parameters of the base model, and how many values are trained (adapters and added layers included)."""
    shapes = _shapes(settings) if shapes is None else shapes
    return sum(math.prod(shape) for shape in shapes.values()), _trained(settings, shapes)


def state_bytes(settings: Settings, shapes: Shapes | None = None) -> int:
    """Memory of weights, gradients and optimizer, in bytes.

    Frozen weights are kept in bf16; in fp32 where everything else is trained, or nothing computes in bf16.
    """
    parameters, trained = parameter_counts(settings, shapes)
    frozen = max(0, parameters - trained) * Types.of(settings).frozen
    return round(trained * optimizers.trained_bytes(settings)) + frozen


def print_plan(settings: Settings) -> None:
    """Print the estimate."""
    plan = estimate(settings)
    say("plan", f"{plan.rows} rows, {plan.hours:.2f} h; {plan.steps_per_epoch} steps an epoch, {plan.steps} in all")
    if plan.processes > 1:
        say("plan", f"on {plan.processes} GPUs together")
    share = 100 * plan.trained / plan.parameters
    say("plan", f"{plan.parameters / 1e6:,.1f} M parameters, {plan.trained / 1e6:,.2f} M trained ({share:.1f} %)")
    _print_memory(settings, plan)
    say("plan", f"{plan.checkpoint_bytes / 1e9:.2f} GB a bf16 checkpoint; best, last and one in writing at a time")
    low, high = UTILIZATION
    say("plan", f"{plan.flops:.2g} FLOPs; training where {high:.0%} to {low:.0%} of the data sheet's rate is reached:")
    fits = True
    for gpu, (size, _) in GPUS.items():
        pieces = pieces_on(settings, plan.largest, plan.processes, gpu, plan.shapes)
        fits = fits and pieces == 1
        if not pieces:
            say("plan", f"{gpu} {size} GB: too small")
            continue
        best, worst = hours_on(plan, gpu)
        cut = "" if pieces == 1 else f"; the largest batches in {pieces} pieces, slower and with the same result"
        say("plan", f"{gpu} {size} GB: {_readable(best)} to {_readable(worst)}{cut}")
    less = [] if fits else helps(settings, plan.lengths, plan.processes, plan.shapes)
    if less:
        listed = ", ".join(f"{name} {total / 1e9:.1f} GB" for name, total in less)
        say("plan", f"what would take less: {listed}")


def _print_memory(settings: Settings, plan: Plan) -> None:
    """What a GPU holds, part by part."""
    found, working = plan.memory, plan.memory.working

    def size(count: float) -> str:
        return f"{count / 1e9:.2f} GB"

    share = " (a GPU's share)" if settings.distributed == "fsdp" and plan.processes > 1 else ""
    say("plan", f"{size(found.state)} for weights, gradients and optimizer{share}")
    say("plan", f"{size(found.on_top)} more at the peak, in the largest batch ({plan.largest.positions:,} positions):")
    say("plan", f"the talker keeps {size(working.kept)}, the sub-talker takes {size(working.chunk)} at a time")
    say("plan", f"{size(found.total)} in all, {size(CUDA_BYTES)} for CUDA itself among it")


def _shapes(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights, from the headers of the base's files."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(models.base_directory(settings).glob("*.safetensors")):
        with safe_open(str(path), framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118  # not a dict
                shapes[name] = tuple(weights.get_slice(name).get_shape())
    return shapes


def _trained(settings: Settings, shapes: Shapes) -> int:
    """How many values are trained, by the rules of `job.train.adapt`."""

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
    """Shapes of the weights that get adapters under TRAIN_MODE=lora."""
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
