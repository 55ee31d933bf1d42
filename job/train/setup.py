"""Setup of a training run before its first step: model, data, trained parameters, learning-rate schedule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from job import fast
from job.config import optimizer_choice
from job.config.settings import Settings
from job.core import files
from job.core.console import say, warn
from job.dataset.prepared import read_speakers, read_split
from job.fast.changes import Changes
from job.loss.layout import SpecialIds
from job.loss.rows import Rows
from job.model.embedding_rows import language_rows
from job.model.loading import (
    base_directory,
    check_attention,
    load_model,
    resolve_device,
    resolve_precision,
    stored_type,
)
from job.modes import mode_of
from job.optimizer.groups import Group, decayed_and_not
from job.processes.ranks import Ranks
from job.train import adapt, added_languages, agreement, combinations, progressive, trackers, warm
from job.train.checkpoint import Exporter
from job.train.probe import Probe
from job.train.schedule import Schedule
from job.train.spread import Spread


@contextmanager
def accelerator_of(settings: Settings, ranks: Ranks) -> Iterator[Any]:
    """Create an `Accelerator` for DEVICE and MIXED_PRECISION; seed all random generators alike in all processes."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import set_seed

    device = resolve_device(settings)
    if device.type == "cuda" and ranks.world == 1:
        torch.cuda.set_device(device)  # with several processes, each has already set its own
    set_seed(settings.seed % 2**32)  # NumPy's global generator takes no more; all that matters is seeded by place
    try:
        accelerator = Accelerator(
            mixed_precision=resolve_precision(settings, device),
            cpu=device.type == "cpu",
            log_with=trackers.names(settings) or None,
            project_dir=str(trackers.directory(settings)),
        )
        if device.type == "cuda":
            # accelerate sets plain "cuda", which in another thread means the first GPU. Every new `AcceleratorState`
            # copies `PartialState`'s device.
            accelerator.state.device = PartialState().device = device
        yield accelerator
    finally:
        AcceleratorState._reset_state(True)  # global: another run in this process may use another precision


@dataclass
class Training:
    """What the training loop works with.

    Attributes:
        model: the `Qwen3TTSForConditionalGeneration`.
        groups: the trained parameters, grouped by learning rate.
        phases: PROGRESSIVE_STAGES; empty for none.
        train_rows, eval_rows: the splits; `eval_rows` may be empty.
        exporter: writes checkpoints for stock `qwen_tts`.
        probe: says a few sentences at every evaluation.
        codebooks: number of codebooks.
        basis: what the result depends on.
    """

    model: Any
    groups: list[Group]
    phases: list[progressive.Phase]
    train_rows: Rows
    eval_rows: Rows
    exporter: Exporter
    probe: Probe
    basis: agreement.Basis
    codebooks: int

    @property
    def parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Return (name, tensor) of every trained parameter, in the optimizer's order."""
        return [pair for group in self.groups for part in decayed_and_not(group) for pair in part]


def set_up(settings: Settings, accelerator: Any) -> Training:
    """Load the base model and the prepared data, and build the `Training` from them.

    Raises:
        BadInput: they do not match each other or the settings.
    """
    combinations.check(settings)
    base = base_directory(settings)
    check_attention(settings, accelerator.device, accelerator.mixed_precision)
    config = files.read_json(base / "config.json")
    combinations.check_data(settings, config)
    tables = {split: read_split(settings.paths, split) for split in ("train", "validation")}
    combinations.check_rows(settings, tables)
    # Load straight to the training device, in the dtype that most of it is kept in: no copy on the host.
    kind = stored_type(base) if lowers(settings, accelerator.mixed_precision) else torch.float32
    loaded = load_model(base, accelerator.device, kind, settings.attn_implementation)
    model: Any = loaded.model
    model.speech_tokenizer = None  # training uses codes; the codec would only take memory
    speakers = read_speakers(settings.paths)
    spoken = {name for table in tables.values() for name in table["language"].unique().to_pylist()}
    new_languages = language_rows(config, sorted(spoken))
    added_languages.initialise(model, new_languages, settings)

    groups = adapt.adapt(model, settings, list(new_languages.values()))
    phases = progressive.parse(settings.progressive_stages)
    names = [name for group in groups for name, _ in group.parameters]
    progressive.check(phases, lambda phase: any(phase.holds(name) for name in names))
    adapter = warm.adapter_of(settings)
    if adapter is not None:
        warm.start_from(model, adapter)
    arrange(model, settings, accelerator.mixed_precision, accelerator.device)

    ids = SpecialIds.from_config(config)
    ids.languages.update(new_languages)
    tokenizer = loaded.processor.tokenizer

    def tokenize(texts: list[str]) -> list[list[int]]:
        return list(tokenizer(texts)["input_ids"]) if texts else []

    rows = {
        split: Rows(
            table,
            ids,
            tokenize,
            {name: vector.float().numpy() for name, vector in speakers.items()},
            text_layout=settings.text_layout,
            icl_fraction=settings.icl_fraction,
            seed=settings.seed,
        )
        for split, table in tables.items()
    }
    if settings.icl_fraction and not rows["train"].clones():
        warn("train", f"ICL_FRACTION={settings.icl_fraction:g}: no row has another clip of its speaker to clone from")
    # dtype of the saved checkpoint: as trained, so that the published weights are those that were evaluated.
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    return Training(
        model=model,
        groups=groups,
        phases=phases,
        train_rows=rows["train"],
        eval_rows=rows["validation"],
        exporter=Exporter(model, base, speakers, new_languages, settings, dtype),
        probe=Probe.of(
            tables["validation"] if len(tables["validation"]) else tables["train"],
            tokenize,
            speakers,
            ids.languages,
            count=settings.probe_sentences,
            text_layout=settings.text_layout,
            seed=settings.seed,
        ),
        basis=agreement.basis_of(settings, base),
        codebooks=ids.codebooks,
    )


def arrange(model: Any, settings: Settings, precision: str, device: torch.device) -> Changes:
    """Set an adapted model's weight dtypes and fast computation as the settings ask; returns the reversible changes.

    Raises:
        BadInput: MASTER_WEIGHTS and the precision are incompatible.
    """
    optimizer_choice.check(settings, precision)
    if lowers(settings, precision):
        lower_weights(model, everything=optimizer_choice.in_bf16(settings))
    return fast.apply(model, settings, device, precision)


def announce(settings: Settings, training: Training, schedule: Schedule, accelerator: Any) -> None:
    """Say what is trained, on what and for how long."""
    total = sum(p.numel() for p in training.model.parameters())
    parts = ", ".join(f"{g.name} {g.size:,} at {g.rate:g}" for g in training.groups)
    where = f"{accelerator.device} ({accelerator.mixed_precision})"
    say("train", f"{len(training.train_rows)} rows, {int(training.train_rows.frames.sum())} frames")
    say("train", f"{schedule.steps} steps, {schedule.per_epoch} an epoch, validated every {schedule.eval_every}")
    say("train", f"trains {parts} of {total:,} parameters on {where}")
    say("train", f"speakers: {', '.join(sorted(training.exporter.speakers))}")
    begin = training.phases[-2].until if len(training.phases) > 1 else None
    if begin and schedule.steps <= begin * schedule.per_epoch and not settings.curriculum:
        warn("train", f"the last of PROGRESSIVE_STAGES begins after {begin} epochs, and the run ends before")
    for name, row in training.exporter.languages.items():
        say("train", f"{name} is new to the base and gets row {row} of the codec embedding")
    if len(training.eval_rows) == 0:
        say("train", "no validation rows: the best checkpoint is chosen by the loss on training rows")


def spread_over(training: Training, objective: torch.nn.Module, spread: Spread, precision: str) -> None:
    """Shard the model under DISTRIBUTED=fsdp. Trained parameters become new tensors with the same names."""
    if not spread.sharded:
        return
    # The sub-talker is not sharded layer by layer: it is small, and is differentiated chunk by chunk during the forward
    # pass, so it is gathered as a whole meanwhile.
    spread.shard(objective, training.model.talker.model.layers, low=precision == "bf16")
    tensors = dict(training.model.named_parameters())
    for group in training.groups:
        group.parameters = [(name, tensors[name]) for name, _ in group.parameters]


def scheduler_of(settings: Settings, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """Build LR_SCHEDULER over `steps` with WARMUP_STEPS (by default 5 %, at most 100)."""
    from transformers import get_scheduler

    warmup = settings.warmup_steps
    warmup = min(100, round(0.05 * steps)) if warmup is None else min(warmup, steps)
    name = {"constant": "constant_with_warmup"}.get(settings.lr_scheduler, settings.lr_scheduler)
    extra: dict[str, Any] = {}
    if settings.lr_scheduler == "cosine" and settings.min_lr_ratio > 0:
        name, extra = "cosine_with_min_lr", {"scheduler_specific_kwargs": {"min_lr_rate": settings.min_lr_ratio}}
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps, **extra)


def lowers(settings: Settings, precision: str) -> bool:
    """Return whether frozen weights are kept in bf16. If nearly all are trained, the rest stays in fp32 too."""
    return optimizer_choice.in_bf16(settings) or (precision == "bf16" and not mode_of(settings).nearly_all)


def lower_weights(model: Any, everything: bool = False) -> None:
    """Convert frozen weights, or all, to bf16: autocast computes in bf16 anyway, and it halves the memory."""
    for parameter in model.parameters():
        if everything or not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
