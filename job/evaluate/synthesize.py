"""Test speech: generates a few texts with the finished checkpoint, loaded by stock `qwen_tts`.

Reads `output/best` (or `output/last`) and the prepared texts; writes `samples/*.wav` and `samples/stats.json`. Torch
and qwen_tts are imported when `run` is called.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config.paths import Paths
from job.config.settings import Settings
from job.core import console, files
from job.core.errors import BadInput, first_line
from job.evaluate import baselines, kept, other_seeds, own, speech_gate, spoken_texts
from job.evaluate.judges.registry import load_judges
from job.evaluate.judging import Spoken, judged
from job.evaluate.said_once import Side
from job.evaluate.samples import describe, write
from job.evaluate.speaking import speak
from job.evaluate.verdict import table
from job.model.loading import base_directory, read_config

if TYPE_CHECKING:
    import pyarrow as pa
    from qwen_tts import Qwen3TTSModel

STAGE = "synthesize"
#: Maximum rows of a split, evenly spaced, from which texts are chosen: as Python objects they take 0.5 KB each.
MOST_ROWS = 100_000
#: Columns of the prepared data that define what to say.
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
    settings = as_tuned(settings, directory)
    config = read_config(directory)
    summary, splits = prepared(paths)
    rows = rows_of(splits)
    utterances = spoken_texts.plan(settings, config, spoken_texts.speakers_of(config, directory), rows)

    from job.model.loading import resolve_device

    device = str(resolve_device(settings))
    judges = load_judges(settings, device)
    no_base = baselines.left_out(settings, device)
    console.say(STAGE, f"saying {len(utterances)} texts with {directory} on {device}")
    spoken = _by_voice(
        directory,
        settings,
        utterances,
        splits,
        spoken_texts.frames_per_character(summary),
    )
    if no_base is None:
        no_base = _by_base(settings, spoken)

    no_others = kept.left_out(settings, device)
    besides: dict[str, Any] = {"rows": [], "left_out": {"all": no_others}, "warnings": []}
    if no_others is None:
        known = [row for some in rows for row in some]
        besides = kept.of(settings, directory, known, spoken.references, judges, _loaders(settings, directory))

    samples = spoken.samples["voice"]
    from_where = spoken_texts.origins([one.text for one in utterances], *(splits or (None, None)))
    described = [
        describe(sample, name, spoken.samples_per_frame, spoken.own.get(sample.utterance.speaker))
        for sample, name in zip(samples, spoken.files("voice"), strict=True)
    ]
    for one, origin in zip(described, from_where, strict=True):
        one["origin"] = origin
        note = "; ".join(one["problems"]) or "good"
        console.say(STAGE, f"{paths.samples / one['file']}: {one['seconds']:.2f} s, {note}")
    for speaker, one_voice in spoken.own.items():
        if one_voice.off:
            names = ", ".join(sorted(one_voice.off))
            console.say(STAGE, f"not checked, since {speaker}'s own recordings are so through this codec: {names}")

    stats = judged(settings, judges, spoken, described, no_base, besides)
    write(paths.samples, spoken.sounds(), {**stats, "settings": _used(settings, directory)})
    for line in (*table(stats["comparison"]), stats["summary"]["verdict"]):
        console.say(STAGE, line)
    speech_gate.decide(settings.synth_gate, described, settings.synth_gate_share)
    failed = sum(not one["passed"] for one in described)
    seconds = round(sum(one["seconds"] for one in described), 3)
    return {"samples": len(described), "failed": failed, "seconds": seconds}


def _by_voice(
    directory: Path, settings: Settings, utterances: list[spoken_texts.Utterance], splits: list[pa.Table], rate: float
) -> Spoken:
    """Generate the voice's samples and decode its recordings. The model's memory is freed afterwards."""
    model = load_voice(directory, settings)
    samples = list(speak(model, utterances, settings, rate))
    again = other_seeds.say_again(model, utterances, settings, rate)
    tokenizer: Any = model.model.speech_tokenizer  # type: ignore[attr-defined]
    names = sorted({one.speaker for one in utterances})
    chosen = baselines.choose(splits, names)
    codec = baselines.through_codec(model, chosen)
    recorded = {"codec": codec} if codec else {}
    as_recorded = baselines.as_recorded(chosen, settings, codec[0].sample_rate) if codec else []
    if as_recorded:
        recorded["recordings"] = as_recorded
    return Spoken(
        samples={"voice": samples},
        recorded=recorded,
        own=own.of_speakers(model, splits, names) if splits else {},
        references=baselines.choose(splits, names, each=baselines.REFERENCES),
        again=again,
        frames_per_character=rate,
        samples_per_frame=int(tokenizer.get_decode_upsample_rate()),
    )


def _by_base(settings: Settings, spoken: Spoken) -> str | None:
    """Add the base model's samples of cloning the voice; returns the reason if it cannot."""
    utterances = [one.utterance for one in spoken.samples["voice"]]
    console.say(STAGE, f"saying them with the base model cloning the same speakers ({settings.init_model_path})")
    gc.collect()  # the voice's modules are in reference cycles, which would keep their memory
    try:
        model = load_voice(base_directory(settings), settings, scaled=False)
        found = baselines.cloned(settings, model, utterances, spoken.references, spoken.frames_per_character)
    except Exception as error:  # whatever the error, the voice is judged without it
        console.warn(STAGE, f"the base model is left out: {first_line(error)}")
        return first_line(error)
    spoken.samples.update(found)
    return None if found else "no x-vector of a speaker"


def _loaders(settings: Settings, directory: Path) -> dict[Side, Callable[[], Qwen3TTSModel]]:
    """How to load the base model and the finished checkpoint."""
    return {
        "base": lambda: load_voice(base_directory(settings), settings, scaled=False),
        "voice": lambda: load_voice(directory, settings),
    }


def texts_file(settings: Settings) -> Path | None:
    """Return the file that TEST_TEXTS names, if any."""
    return spoken_texts.texts_file(settings.test_texts) if settings.test_texts else None


def find_checkpoint(paths: Paths) -> Path:
    """Return `output/best`, or `output/last` if there is no best one.

    Raises:
        BadInput: neither can be loaded by stock `qwen_tts`.
    """
    for directory in (paths.best, paths.last):
        if (directory / "config.json").is_file() and any(directory.glob("model*.safetensors")):
            return directory
        if (directory / "adapter_config.json").is_file():
            raise BadInput(f"{directory} holds only an adapter; EXPORT=merged or EXPORT=both makes one that speaks")
    raise BadInput(f"OUTPUT_DIR={paths.output}: no checkpoint in best/ or last/; run `python -m job train` first")


def as_tuned(settings: Settings, directory: Path) -> Settings:
    """The settings, with TUNE_SPEECH at the temperature that was found the best for this checkpoint."""
    state = directory / "training_state.json"
    if settings.greedy or not settings.tune_speech or not state.is_file():
        return settings
    found = files.read_json(state).get("speech")
    return settings.model_copy(update={"temperature": found["temperature"]}) if found else settings


def _scaled(directory: Path, settings: Settings) -> Path:
    """Return the checkpoint, or a copy of it in the work directory with its adapter scaled by LORA_SCALE."""
    if settings.lora_scale == 1.0:
        return directory
    from job.model.voices import scaled_model

    target = settings.paths.work / "scaled"
    scaled_model(directory, target, settings.lora_scale)
    return target


def load_voice(directory: Path, settings: Settings, *, scaled: bool = True) -> Qwen3TTSModel:
    """Load the checkpoint by stock `from_pretrained`, at LORA_SCALE if `scaled`.

    Raises:
        BadInput: it cannot be loaded.
    """
    import torch
    from safetensors import SafetensorError

    from job.model.loading import load_model, resolve_device, resolve_precision

    device = resolve_device(settings)
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
    dtype = kinds[resolve_precision(settings, device)]
    directory = _scaled(directory, settings) if scaled else directory
    try:
        return load_model(directory, device, dtype, settings.attn_implementation)
    except (OSError, ValueError, KeyError, TypeError, ImportError, SafetensorError) as error:
        reason = first_line(error)
        raise BadInput(f"{directory} cannot be loaded by qwen_tts ({reason}); rerun `python -m job train`") from error


def prepared(paths: Paths) -> tuple[dict[str, Any], list[pa.Table]]:
    """Return the summary and the splits, validation first; empty when no data was prepared here."""
    from job.dataset.prepared import read_split, read_summary

    try:
        summary = read_summary(paths)
    except BadInput:
        return {}, []
    return summary, [read_split(paths, split) for split in ("validation", "train")]


def rows_of(splits: Sequence[pa.Table]) -> list[list[spoken_texts.Row]]:
    """Return evenly spaced rows of each non-empty split, with only the columns that define what to say."""
    return [t.select(TEXTS).take(spoken_texts.spread(len(t), MOST_ROWS)).to_pylist() for t in splits if len(t)]


def _used(settings: Settings, directory: Path) -> dict[str, Any]:
    """Return the settings that affect the samples, for stats.json."""
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
        "similarity_model",
        "baselines",
        "kept_abilities",
    )
    return {"checkpoint": str(directory), **{name: getattr(settings, name) for name in names}}
