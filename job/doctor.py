"""The checks that run before any money is spent: what would fail in hour ten fails in minute one."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from job import notify
from job.config import names, optimizer_choice
from job.config.settings import Settings
from job.config.variables import SOURCE_VARIABLES
from job.core import driver, files
from job.core.console import say, warn
from job.core.errors import BadInput
from job.fetch.one_source import Source
from job.mirror import addresses, step_pushes
from job.model import loading
from job.modes import mode_of
from job.processes import nodes
from job.text import languages

#: Disk space for logs, samples, manifests and the like, besides weights and data.
SPARE_BYTES = 64 << 20


def run(settings: Settings, data: Source | None = None) -> dict[str, Any]:
    """Run all checks; the first problem found is raised.

    Args:
        data: the data source, as in `fetch.check`.

    Raises:
        BadInput: naming the variable and the fix.
    """
    from job import fetch
    from job.evaluate.judges import models
    from job.prepare import edits, heard_words
    from job.publish import dataset_push, kept_cards, push, validate
    from job.train import combinations, trackers

    combinations.check(settings)
    nodes.check(settings)
    driver.check(settings.device)
    _data_is_named(settings)
    _resume(settings)
    notify.check(settings)
    for variable, directory in (("WORK_DIR", settings.paths.work), ("OUTPUT_DIR", settings.paths.output)):
        _writable(variable, directory)
    addresses.check(settings)
    source = fetch.check(settings, data)
    say("doctor", source)
    base = loading.base_directory(settings)
    loading.speech_tokenizer_directory(settings)
    size = _base(settings, base)
    trackers.check(settings)
    need = _disk(settings, size)
    validate.checked_card(settings)
    publishing = push.check(settings)
    if "skipped" in publishing:
        say("doctor", f"nothing will be published: {publishing['skipped']}")
    else:
        say("doctor", f"will publish to {', '.join(publishing['repos'])} as {publishing['user']}")
    if dataset := dataset_push.check(settings):
        say("doctor", f"will publish the prepared dataset as {dataset}")
    kept_cards.check(settings)
    step_pushes.check(settings)
    _texts(settings)
    models.check(settings)
    if settings.data_mode != "none":
        if settings.asr_model is None:  # else it is the one that has just been looked at
            heard_words.check(settings)
        edits.Edits(settings.paths.edits)  # a line that is not understood ends a run before anything is transcribed
    device = loading.resolve_device(settings)
    precision = loading.resolve_precision(settings, device)
    optimizer_choice.check(settings, precision)
    loading.check_attention(settings, device, precision)
    say("doctor", f"{device}, {precision}; base model {size / 1e9:.2f} GB in {base}")
    if device.type == "cuda" and precision == "no" and settings.mixed_precision == "auto":
        warn("doctor", f"{device} does not support bf16; using fp32, which is slower than bf16 on a newer GPU")
    memory = _gpu_memory(settings.model_copy(update={"mixed_precision": precision}), device)
    if settings.torch_compile:
        from job.fast import compiled

        compiled.check(device)
        say("doctor", f"torch.compile works on {device}")
    return {"source": source, "base_bytes": size, "disk_needed": need, "device": str(device), **memory}


def check_training(settings: Settings) -> None:
    """What of `run` tells without the machine that trains whether training is possible; `plan` asks it first.

    Raises:
        BadInput: naming the variable and the fix.
    """
    from job.train import combinations

    combinations.check(settings)
    _resume(settings)
    base = loading.base_directory(settings)
    _base(settings, base)
    if settings.data_mode != "none":  # `_base` has looked at it
        _prepared(settings, loading.read_config(base).raw)


def _prepared(settings: Settings, config: dict[str, Any]) -> list[str]:
    """Check the prepared data as training does, by the base's config and row by row; returns its new languages."""
    from job.dataset.prepared import SPLITS, read_split
    from job.train import combinations

    new = combinations.check_data(settings, config)
    combinations.check_rows(settings, {split: read_split(settings.paths, split) for split in SPLITS})
    return new


def _data_is_named(settings: Settings) -> None:
    """Require data for a real base model: leaving it out is a mistake, not a wish to train on the built-in clips."""
    from job import fetch

    if settings.init_model_path != "demo" and not fetch.is_named(settings):
        names = " or ".join((", ".join(SOURCE_VARIABLES[:-1]), SOURCE_VARIABLES[-1]))
        raise BadInput(f"no training data: set {names} (or PRESET=demo to try the job)")


def _resume(settings: Settings) -> None:
    if settings.resume in ("auto", "never"):
        return
    from safetensors import SafetensorError

    from job.estimate import parameters
    from job.train import warm

    adapter = warm.adapter_of(settings)
    if adapter is not None:
        if problem := parameters.misfit(settings, adapter):
            raise BadInput(f"RESUME={settings.resume}: {problem}")
        return
    checkpoint = Path(settings.resume).expanduser()
    if not (checkpoint / "state.json").is_file():
        raise BadInput(f"RESUME={settings.resume}: neither a checkpoint nor an adapter; use auto, never or a path")
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # a damaged one is reported by training
        state, kind = files.read_json(checkpoint / "state.json"), optimizer_choice.kind_of(settings)
        if problem := optimizer_choice.other_kind(state["optimizer"].get("kind", kind), kind):
            raise BadInput(f"RESUME={settings.resume}: {problem}")
        if settings.max_steps and settings.max_steps < int(state["step"]):
            raise BadInput(warm.past_the_end(settings.resume, int(state["step"]), settings.max_steps))
        try:
            if not parameters.are_trained(settings, checkpoint / "trained.safetensors"):
                raise BadInput(warm.other_parameters(settings.resume))
        except SafetensorError as error:
            raise BadInput(f"RESUME={settings.resume}: its weights are damaged; name another checkpoint") from error


def _writable(variable: str, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".doctor-") as probe:
            probe.write(b"\0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise BadInput(f"{variable}={directory} is not writable: {error.strerror}; set another directory") from error


def _base(settings: Settings, base: Path) -> int:
    """Check the settings that depend on the base model's files; returns their total size in bytes."""
    from job.estimate import parameters

    config = loading.read_config(base)
    encoder = config.raw.get("speaker_encoder_config") or {}
    width, vector = config.talker.get("hidden_size"), encoder.get("enc_dim", 1024)
    if width != vector and (encoder or config.kind == "base"):  # a CustomVoice model has no encoder
        raise BadInput(
            f"INIT_MODEL_PATH={settings.init_model_path}: its speaker embeddings have {vector} values and its talker "
            f"{width}; they must be equal"
        )
    _languages(settings, config.languages)
    layers = config.talker["num_hidden_layers"]
    mode_of(settings).check(settings, layers)
    # What will be prepared may be in languages that the base lacks, which trains the embeddings too.
    new = settings.data_mode != "none" or bool(_prepared(settings, config.raw))
    parameters.check_stages(settings, new=new)
    return sum(path.stat().st_size for path in base.rglob("*") if path.is_file())


def _languages(settings: Settings, known: dict[str, int]) -> None:
    """Check LANGUAGE and LANGUAGE_INIT against the base model's languages, and log how they are interpreted."""
    languages.start_of_new(settings, known)
    try:
        meant = languages.Languages(known).find(settings.language)
    except languages.UnclearLanguage as question:
        raise BadInput(f"LANGUAGE={settings.language}: {question}") from None
    if not meant.known:
        code = f"ISO 639 code {meant.code}" if meant.code else "no ISO 639 code, so the model card names no language"
        learnt = f"added as the new language {meant.key} ({code})"
        say("doctor", f"LANGUAGE={settings.language}: the base model does not know {meant.name}; it is {learnt}")
    elif meant.key != settings.language.strip().lower() and meant.key != names.AUTO:
        say("doctor", f"LANGUAGE={settings.language} is {meant.key}")


def _disk(settings: Settings, base_bytes: int) -> int:
    """Refuse to start without disk space for models and a checkpoint to resume from. Returns the bytes needed.

    What an earlier run has left in OUTPUT_DIR counts as free: it is replaced.
    """
    from job.estimate import disk

    output = settings.paths.output
    resumable = disk.resumable_bytes(settings)
    need = disk.models(settings) * base_bytes + resumable + SPARE_BYTES
    free = shutil.disk_usage(output).free + disk.taken_bytes(settings)
    of = f"OUTPUT_DIR={output} has {free / 1e9:.2f} GB free"
    if free < need:
        raise BadInput(f"{of} but the checkpoints need {need / 1e9:.2f} GB; free some space or set another OUTPUT_DIR")
    most = disk.most_resumable(settings)
    if free < need + (most - 1) * resumable:
        room = int((free - need) // resumable)
        advice = f"set SAVE_TOTAL_LIMIT={room}, " if room else ""
        warn(
            "doctor",
            f"{of}: enough for {room + 1} of the up to {most} checkpoints of {resumable / 1e9:.2f} GB that "
            f"SAVE_TOTAL_LIMIT={settings.save_total_limit} keeps while a new one is written; {advice}free some space, "
            "or steps since the last one that fitted are lost when the run is stopped",
        )
    if shutil.disk_usage(settings.paths.work).free < SPARE_BYTES:
        raise BadInput(f"WORK_DIR={settings.paths.work} has less than {SPARE_BYTES >> 20} MB free; free some space")
    return need


def _texts(settings: Settings) -> None:
    from job.evaluate import spoken_texts

    if settings.test_texts:
        spoken_texts.parse_texts(settings.test_texts)


def _gpu_memory(settings: Settings, device: Any) -> dict[str, Any]:
    """Refuse a GPU too small for even one sample at a time; larger batches are split when memory runs out."""
    if device.type != "cuda":
        return {}
    import torch

    from job.estimate import memory
    from job.processes.per_node import processes_per_node

    name = torch.cuda.get_device_name(device)
    unusable = driver.complaint_about_gpu(name, torch.cuda.get_device_capability(device), torch.cuda.get_arch_list())
    if unusable:
        raise BadInput(unusable)
    free, total = torch.cuda.mem_get_info(device)
    need = memory.least_bytes(settings, processes_per_node(settings) * settings.num_nodes)
    if free < need:
        raise BadInput(
            f"DEVICE={device}: {free / 1e9:.1f} GB of {total / 1e9:.1f} GB free, but TRAIN_MODE={settings.train_mode} "
            f"needs at least {need / 1e9:.1f} GB; use TRAIN_MODE=lora, GRADIENT_CHECKPOINTING=true or a larger GPU"
        )
    return {"gpu": name, "gpu_free_bytes": free}
