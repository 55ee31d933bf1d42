"""Test speech: the finished checkpoint, loaded by stock `qwen_tts`, says a few texts.

Reads `output/best` (or `output/last`) and the prepared texts; writes `samples/*.wav` and `samples/stats.json`. Torch
and qwen_tts are imported when `run` is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config.paths import Paths
from job.config.settings import Settings
from job.core import console
from job.core.errors import BadInput, first_line
from job.evaluate import own, speech_gate, spoken_texts
from job.evaluate.samples import describe, file_name, load_judges, write
from job.evaluate.speaking import speak
from job.model.loading import read_config

if TYPE_CHECKING:
    import pyarrow as pa
    from qwen_tts import Qwen3TTSModel

STAGE = "synthesize"
#: Rows of a split, evenly from all of it, among which texts are chosen: as Python objects, 0.5 KB each.
MOST_ROWS = 100_000
#: Columns of the prepared data that tell what to say.
TEXTS = ["text", "speaker", "language", "instruct"]


def run(settings: Settings) -> dict[str, Any]:
    """Say the test texts, measure them, and apply SYNTH_GATE.

    Returns:
        Counts for the stage's state file: samples, failed, seconds of audio.

    Raises:
        BadInput: there is no checkpoint that can speak, nothing to say, or a model for the metrics cannot be loaded.
        SpeechFailed: SYNTH_GATE_SHARE of the samples failed under SYNTH_GATE=fail; the files are written nevertheless.
    """
    paths = settings.paths
    directory = find_checkpoint(paths)
    config = read_config(directory)
    summary, splits = prepared(paths)
    utterances = spoken_texts.plan(settings, config, spoken_texts.speakers_of(config, directory), rows_of(splits))

    from job.model.loading import resolve_device

    device = resolve_device(settings)
    judges = load_judges(settings, str(device))
    model = load_voice(directory, settings)
    rate = float(summary.get("frames_per_character") or spoken_texts.FRAMES_PER_CHARACTER)
    console.say(STAGE, f"saying {len(utterances)} texts with {directory} on {device}")
    samples = list(speak(model, utterances, settings, rate))

    samples_per_frame = int(model.model.speech_tokenizer.get_decode_upsample_rate())
    recordings = own.of_speakers(model, splits, sorted({one.speaker for one in utterances})) if splits else {}
    described = [
        describe(
            sample,
            file_name(number, sample.utterance),
            samples_per_frame,
            judges,
            recordings.get(sample.utterance.speaker),
        )
        for number, sample in enumerate(samples, start=1)
    ]
    write(paths.samples, samples, described, _used(settings, directory))
    for one in described:
        note = "; ".join(one["problems"]) or "good"
        console.say(STAGE, f"{paths.samples / one['file']}: {one['seconds']:.2f} s, {note}")
    for speaker, one_voice in recordings.items():
        if one_voice.off:
            names = ", ".join(sorted(one_voice.off))
            console.say(STAGE, f"not judged, since {speaker}'s own recordings are so through this codec: {names}")
    speech_gate.decide(settings.synth_gate, described, settings.synth_gate_share)
    failed = sum(not one["passed"] for one in described)
    seconds = round(sum(one["seconds"] for one in described), 3)
    return {"samples": len(described), "failed": failed, "seconds": seconds}


def texts_file(settings: Settings) -> Path | None:
    """The file that TEST_TEXTS names, if it names one."""
    return spoken_texts.texts_file(settings.test_texts) if settings.test_texts else None


def find_checkpoint(paths: Paths) -> Path:
    """`output/best`, or `output/last` when there is no best one.

    Raises:
        BadInput: neither can be loaded by stock `qwen_tts`.
    """
    for directory in (paths.best, paths.last):
        if (directory / "config.json").is_file() and any(directory.glob("model*.safetensors")):
            return directory
        if (directory / "adapter_config.json").is_file():
            raise BadInput(f"{directory} holds only an adapter; EXPORT=merged or EXPORT=both makes one that speaks")
    raise BadInput(f"OUTPUT_DIR={paths.output}: no checkpoint in best/ or last/; run `python -m job train` first")


def _scaled(directory: Path, settings: Settings) -> Path:
    """The checkpoint, or a copy of it in the work directory with its adapter at LORA_SCALE."""
    if settings.lora_scale == 1.0:
        return directory
    from job.model.voices import scaled_model

    target = settings.paths.work / "scaled"
    scaled_model(directory, target, settings.lora_scale)
    return target


def load_voice(directory: Path, settings: Settings) -> Qwen3TTSModel:
    """The checkpoint at LORA_SCALE, through stock `from_pretrained`.

    Raises:
        BadInput: it cannot be loaded.
    """
    import torch
    from safetensors import SafetensorError

    from job.model.loading import load_model, resolve_device, resolve_precision

    device = resolve_device(settings)
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
    dtype = kinds[resolve_precision(settings, device)]
    directory = _scaled(directory, settings)
    try:
        return load_model(directory, device, dtype, settings.attn_implementation)
    except (OSError, ValueError, KeyError, TypeError, ImportError, SafetensorError) as error:
        reason = first_line(error)
        raise BadInput(f"{directory} cannot be loaded by qwen_tts ({reason}); rerun `python -m job train`") from error


def prepared(paths: Paths) -> tuple[dict[str, Any], list[pa.Table]]:
    """The summary and the splits, validation first; nothing when no data was prepared here."""
    from job.dataset.prepared import read_split, read_summary

    try:
        summary = read_summary(paths)
    except BadInput:
        return {}, []
    return summary, [read_split(paths, split) for split in ("validation", "train")]


def rows_of(splits: Sequence[pa.Table]) -> list[list[spoken_texts.Row]]:
    """Rows of each split that has some, evenly from all of it, as far as they tell what to say."""
    return [t.select(TEXTS).take(spoken_texts.spread(len(t), MOST_ROWS)).to_pylist() for t in splits if len(t)]


def _used(settings: Settings, directory: Path) -> dict[str, Any]:
    """The settings that shaped the samples, for stats.json."""
    names = (
        "seed",
        "greedy",
        "temperature",
        "top_p",
        "top_k",
        "max_new_tokens",
        "text_layout",
        "asr_model",
        "mos_model",
    )
    return {"checkpoint": str(directory), **{name: getattr(settings, name) for name in names}}
