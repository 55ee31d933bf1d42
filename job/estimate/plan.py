"""Estimate a run's steps, memory, disk space and hours from the settings and the prepared data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from job.config.settings import Settings
from job.core.console import say, warn
from job.dataset.prepared import read_summary
from job.estimate import disk, timing
from job.estimate.activations import Load
from job.estimate.flops import Work
from job.estimate.layer_bytes import Shapes, Types
from job.estimate.lengths import Lengths
from job.estimate.memory import CUDA_BYTES, Memory, by_layer, memory_of, state_bytes
from job.estimate.parameters import parameter_counts, shapes_of
from job.evaluate import kept, other_seeds, spoken_texts, trial, tuning
from job.evaluate.baselines import RECORDINGS
from job.evaluate.comparison import BASES
from job.modes import mode_of

#: Commonly rented GPUs: memory in GB, and dense bf16 FLOP/s from NVIDIA's data sheets.
GPUS = {
    "H200": (141, 989e12),
    "H100": (80, 989e12),
    "A100": (80, 312e12),
    "L40S": (48, 362e12),
    "RTX 4090": (24, 165e12),
    "L4": (24, 121e12),
}
#: Bytes per second between nodes: 100 Gbit/s, as most rented nodes have.
NETWORK = 100e9 / 8
#: Seconds that a CPU core takes to judge a clip, its pitch and x-vectors among it.
JUDGING_SECONDS = 1.0
#: Share of a GPU's memory that is left free for fragmentation.
HEADROOM = 0.05


@dataclass(frozen=True)
class Plan:
    """The estimates.

    Among them `state_bytes` of weights, gradients and optimizer, `memory` per GPU for the largest batch, and `passes`
    (forward and backward) of each process per step.
    """

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
    resumable_bytes: int
    flops: float
    passes: int


def estimate(settings: Settings) -> Plan:
    """Compute the estimates.

    Raises:
        BadInput: there is no prepared data yet, or no base model.
    """
    train = read_summary(settings.paths)["splits"]["train"]
    measured = Lengths.of(settings)
    processes = processes_of(settings)
    per_epoch = math.ceil(measured.batches(settings) / (settings.gradient_accumulation_steps * processes))
    steps = settings.max_steps or settings.num_epochs * per_epoch
    shapes, largest = shapes_of(settings), measured.largest(settings)
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
        memory=memory_of(settings, largest, processes, shapes=shapes),
        checkpoint_bytes=parameters * disk.MODEL_BYTES,
        resumable_bytes=disk.resumable_bytes(settings, shapes),
        flops=steps / per_epoch * _epoch_flops(settings, shapes, measured),
        passes=timing.passes_per_step(settings, measured.mean),
    )


def processes_of(settings: Settings) -> int:
    """The number of GPUs that train together, as far as the settings tell."""
    return settings.num_nodes * (1 if settings.num_gpus == "auto" else max(1, int(settings.num_gpus)))


def pieces_on(settings: Settings, load: Load, processes: int, gpu: str, shapes: Shapes | None = None) -> int:
    """The number of parts that a batch must be split into on a kind of GPU; 0 if even one sample is too large."""
    usable = (1 - HEADROOM) * GPUS[gpu][0] * 1e9
    shapes = shapes_of(settings) if shapes is None else shapes
    pieces = 1
    while memory_of(settings, load, processes, pieces=pieces, shapes=shapes).total > usable:
        if pieces >= load.samples or settings.distributed == "fsdp":
            return 0
        pieces = min(2 * pieces, load.samples)
    return pieces


def helps(settings: Settings, measured: Lengths, processes: int, shapes: Shapes | None = None) -> list[tuple[str, int]]:
    """Settings that would need less memory, as (variable=value, total bytes), from the most memory to the least."""
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
    if not mode_of(settings).adapters:
        changes["TRAIN_MODE=lora"] = {"train_mode": "lora", "distributed": "ddp"}
        if settings.gradient_checkpointing is not True:
            both = {"train_mode": "lora", "distributed": "ddp", "gradient_checkpointing": True}
            changes["TRAIN_MODE=lora GRADIENT_CHECKPOINTING=true"] = both
    shapes = shapes_of(settings) if shapes is None else shapes
    found = []
    now = memory_of(settings, measured.largest(settings), processes, shapes=shapes).total
    for name, values in changes.items():
        other = settings.model_copy(update=values)
        total = memory_of(other, measured.largest(other), processes, shapes=shapes).total
        if total < now:
            found.append((name, total))
    return sorted(found, key=lambda one: -one[1])


def hours_on(plan: Plan, gpu: str) -> tuple[float, float]:
    """Hours of training on a kind of GPU, in the best and in the worst case (`timing`)."""
    best, worst = timing.seconds_per_step(plan.flops / plan.steps / plan.processes, plan.passes, GPUS[gpu][1])
    return plan.steps * best / 3600, plan.steps * worst / 3600


def sent_bytes(settings: Settings, plan: Plan) -> float:
    """Bytes that each node sends and receives per step; 0 with one node.

    A ring all-reduce over n nodes sends 2 (n - 1) / n of the data. DISTRIBUTED=fsdp sends half of that per micro-batch,
    of which a step has GRADIENT_ACCUMULATION_STEPS, and gathers weights: layers once in the forward and once in the
    backward pass, in the computation's dtype, all others once.
    """
    nodes, types = settings.num_nodes, Types.of(settings)
    once, gradients = (nodes - 1) / nodes, types.trained * plan.trained
    if settings.distributed == "ddp":
        return 2 * once * gradients
    layers, around = (sum(math.prod(plan.shapes[name]) for name in names) for names in by_layer(plan.shapes))
    weights = 2 * min(types.compute, types.trained) * layers + types.trained * around
    return once * settings.gradient_accumulation_steps * (gradients + weights)


def _readable(hours: float) -> str:
    """Hours as readable text."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.0f} min" if hours >= 1 / 60 else "under a minute"


def _epoch_flops(settings: Settings, shapes: Shapes, measured: Lengths) -> float:
    """FLOPs of one epoch, assuming that all samples have the same length."""
    work = Work.of(shapes)
    rows, mean = len(measured.frames), float(measured.frames.mean())
    # Gradients only pass through frozen weights; the adapters' own products are negligible.
    backward = 1.0 if mode_of(settings).adapters else 2.0
    return rows * work.of_sample(measured.mean, mean, settings.sub_talker_frame_fraction, backward)


def print_plan(settings: Settings) -> None:
    """Print the estimate."""
    plan = estimate(settings)
    say("plan", f"{plan.rows} rows, {plan.hours:.2f} h; {plan.steps_per_epoch} steps per epoch, {plan.steps} in total")
    if plan.processes > 1:
        say("plan", f"on {plan.processes} GPUs")
    share = 100 * plan.trained / plan.parameters
    say("plan", f"{plan.parameters / 1e6:,.1f} M parameters, {plan.trained / 1e6:,.2f} M trained ({share:.1f} %)")
    _print_memory(settings, plan)
    say(
        "plan",
        f"{plan.checkpoint_bytes / 1e9:.2f} GB per bf16 checkpoint; at most three exist: best, last, one unfinished"
        + (f", and {settings.save_total_limit} to choose from" if settings.best_by == "judges" else ""),
    )
    most = min(disk.most_resumable(settings), max(1, plan.steps // settings.save_steps))
    say("plan", f"{plan.resumable_bytes / 1e9:.2f} GB per checkpoint to resume from; at most {most} at a time")
    say("plan", f"{plan.flops:.2g} FLOPs in all; training takes about:")
    fits = True
    for gpu, (size, _) in GPUS.items():
        pieces = pieces_on(settings, plan.largest, plan.processes, gpu, plan.shapes)
        fits = fits and pieces == 1
        if not pieces:
            say("plan", f"{gpu} {size} GB: too small")
            continue
        best, worst = hours_on(plan, gpu)
        cut = "" if pieces == 1 else f"; the largest batches split into {pieces} parts: slower, with the same result"
        say("plan", f"{gpu} {size} GB: {_readable(best)} to {_readable(worst)}{cut}")
    _print_launching(plan)
    if settings.num_nodes > 1 and not mode_of(settings).adapters:
        _print_network(settings, plan)
    _print_choosing(settings)
    _print_judging(settings)
    less = [] if fits else helps(settings, plan.lengths, plan.processes, plan.shapes)
    if less:
        listed = ", ".join(f"{name} {total / 1e9:.1f} GB" for name, total in less)
        say("plan", f"to use less: {listed}")


def judged_clips(settings: Settings) -> tuple[int, int]:
    """Texts that the voice says after training, and clips of speech that are judged at most, the base's among them."""
    layouts = len(spoken_texts.LAYOUTS[settings.text_layout])
    said = spoken_texts.DEFAULT_FILES
    if settings.test_texts:
        speakers = read_summary(settings.paths).get("speakers") or {}
        said = len(spoken_texts.parse_texts(settings.test_texts)) * max(1, len(speakers)) * layouts
    ways = 1 if settings.baselines is False else 1 + len(BASES)
    again = 0 if settings.greedy else other_seeds.OTHERS * other_seeds.SPEAKERS
    return said, said * ways + 2 * RECORDINGS + again


def _print_choosing(settings: Settings) -> None:
    """What BEST_BY=judges and TUNE_SPEECH take after training: as many samples of each checkpoint or value tried."""
    kept = settings.save_total_limit + 1 if settings.best_by == "judges" else 0
    values = 0 if settings.greedy else len(tuning.TEMPERATURES)
    tried = values + len(tuning.SCALES) * (settings.export == "both") if settings.tune_speech else 0
    each = trial.TEXTS * (1 if settings.greedy else trial.SEEDS)
    for count, what in ((kept, "checkpoints"), (tried, "ways of speaking")):
        if count:
            said = count * each
            judging = f"judging takes some {said * JUDGING_SECONDS:.0f} s on a CPU core"
            say("plan", f"then up to {count} {what} are tried with {said} samples; {judging}")


def _print_judging(settings: Settings) -> None:
    """What test speech takes after training."""
    said, clips = judged_clips(settings)
    others = kept.samples_at_most(settings)
    base = "" if settings.baselines is False else " (on a GPU the base model says them too, in two ways)"
    besides = f", and on a GPU {others} short ones to see what else is kept" if others else ""
    most = clips + others
    seconds = f"some {most * JUDGING_SECONDS:.0f} s on a CPU core"
    say("plan", f"then {said} texts are said{base}{besides}; judging {most} clips takes {seconds}")


def _print_launching(plan: Plan) -> None:
    """A line where the GPU would mostly wait for its host: then larger batches cost next to nothing."""
    gpu, (_, rate) = next(iter(GPUS.items()))
    computed, _ = timing.seconds_per_step(plan.flops / plan.steps / plan.processes, 0, rate)
    launched = plan.passes * timing.LAUNCHING[0]
    if computed < launched / 2:
        say(
            "plan",
            f"batches are small: an {gpu} computes a step in {computed:.2g} s, but launching its kernels takes "
            f"{launched:.2g} s or more; a larger BATCH_SIZE takes hardly longer per step",
        )


def _print_memory(settings: Settings, plan: Plan) -> None:
    """The lines about a GPU's memory and its parts."""
    found, working = plan.memory, plan.memory.working

    def size(count: float) -> str:
        return f"{count / 1e9:.2f} GB"

    share = " (sharded, per GPU)" if settings.distributed == "fsdp" and plan.processes > 1 else ""
    say("plan", f"{size(found.state)} for weights, gradients and optimizer{share}")
    say("plan", f"{size(found.on_top)} more at the peak, for the largest batch ({plan.largest.positions:,} positions):")
    say("plan", f"the talker keeps {size(working.kept)}, the sub-talker takes {size(working.chunk)} at a time")
    say("plan", f"{size(found.total)} in total, including {size(CUDA_BYTES)} for CUDA itself")


def _print_network(settings: Settings, plan: Plan) -> None:
    """The line about traffic between nodes, with a warning if it takes longer than the computation."""
    sent = sent_bytes(settings, plan)
    seconds = sent / NETWORK
    best, worst = (hours * 3600 / plan.steps for hours in hours_on(plan, "H100"))
    said = (
        f"each of {settings.num_nodes} nodes sends {sent / 1e9:.2f} GB per step: {seconds:.2g} s at "
        f"{NETWORK * 8 / 1e9:.0f} Gbit/s; computing it takes {best:.2g} to {worst:.2g} s on H100s"
    )
    if seconds <= best:
        say("plan", said)
        return
    more = "a larger BATCH_SIZE" if settings.distributed == "fsdp" else "a larger GRADIENT_ACCUMULATION_STEPS"
    warn(
        "plan", f"{said}: the network is the bottleneck; TRAIN_MODE=lora sends almost nothing, {more} sends less often"
    )
