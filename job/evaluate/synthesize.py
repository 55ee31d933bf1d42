"""Test speech: the finished checkpoint, loaded by stock `qwen_tts`, says a few texts.

Stock code does all but the loop over frames, which is `job.evaluate.generation` where it knows the model: the same
codes in a fraction of the time.

Reads `output/best` (or `output/last`) and the prepared texts; writes `samples/*.wav` and `samples/stats.json`. Torch
and qwen_tts are imported when `run` is called.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from job import console, files
from job.errors import BadInput, first_line
from job.evaluate import gate, metrics, texts
from job.evaluate.audio_stats import measure
from job.evaluate.texts import Utterance
from job.models import read_config
from job.paths import Paths
from job.settings import Settings

if TYPE_CHECKING:
    from qwen_tts import Qwen3TTSModel

    from job.evaluate.generation.talker import FastTalker
    from job.evaluate.similarity import Similarity

STAGE = "synthesize"
#: Texts spoken together. A step takes hardly longer for eight than for one; they are padded to the longest.
BATCH = 8
#: Rows of a split, evenly from all of it, among which texts are chosen: as Python objects, 0.5 KB each.
MOST_ROWS = 100_000


@dataclass(frozen=True)
class Sample:
    """One spoken utterance.

    Attributes:
        utterance: what was asked for.
        waveform: float32, shape (samples,), as the codec returned it.
        sample_rate: Hz.
        frames: codec frames, the end not counted.
        stopped_by_eos: whether the talker ended by itself.
        real_time_factor: seconds of work a second of audio, over the batch that it was made in; below 1 is faster than
            it plays.
    """

    utterance: Utterance
    waveform: NDArray[np.float32]
    sample_rate: int
    frames: int
    stopped_by_eos: bool
    real_time_factor: float


@dataclass(frozen=True)
class Judges:
    """The optional models that listen to the samples."""

    transcribe: metrics.Transcriber | None = None
    mos: metrics.Scorer | None = None
    similarity: Similarity | None = None


def run(settings: Settings) -> dict[str, Any]:
    """Say the test texts, measure them, and apply SYNTH_GATE.

    Returns:
        Counts for the stage's state file: samples, failed, seconds of audio.

    Raises:
        BadInput: there is no checkpoint that can speak, nothing to say, or a model for the metrics cannot be loaded.
        SpeechFailed: more than half of the samples failed under SYNTH_GATE=fail; the files are written nevertheless.
    """
    paths = settings.paths
    directory = find_checkpoint(paths)
    config = read_config(directory)
    summary, splits = _prepared(paths)
    utterances = texts.plan(settings, config, texts.speakers_of(config, directory), splits)

    from job.models import resolve_device

    device = resolve_device(settings)
    judges = _judges(settings, str(device))
    model = _load(_scaled(directory, settings), settings)
    rate = float(summary.get("frames_per_character") or texts.FRAMES_PER_CHARACTER)
    console.say(STAGE, f"saying {len(utterances)} texts with {directory} on {device}")
    samples = list(speak(model, utterances, settings, rate))

    samples_per_frame = int(model.model.speech_tokenizer.get_decode_upsample_rate())
    described = [
        describe(sample, file_name(number, sample.utterance), samples_per_frame, judges)
        for number, sample in enumerate(samples, start=1)
    ]
    write(paths.samples, samples, described, _used(settings, directory))
    for one in described:
        note = "; ".join(one["problems"]) or "good"
        console.say(STAGE, f"{paths.samples / one['file']}: {one['seconds']:.2f} s, {note}")
    gate.decide(settings.synth_gate, described)
    failed = sum(not one["passed"] for one in described)
    seconds = round(sum(one["seconds"] for one in described), 3)
    return {"samples": len(described), "failed": failed, "seconds": seconds}


def texts_file(settings: Settings) -> Path | None:
    """The file that TEST_TEXTS names, if it names one."""
    return texts.texts_file(settings.test_texts) if settings.test_texts else None


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


def speak(
    model: Qwen3TTSModel, utterances: Sequence[Utterance], settings: Settings, frames_per_character: float
) -> Iterator[Sample]:
    """Say all utterances in batches of one layout and similar length; yields them in the order given.

    Every batch starts from SEED, so that a rerun gives the same speech.
    """
    done: dict[int, Sample] = {}
    fast = _fast(model)
    groups = _batches(utterances)
    for group in console.progress(groups, stage=STAGE, total=len(groups), unit="batches"):
        batch = [utterances[index] for index in group]
        longest = max(texts.budget(settings, one.text, frames_per_character) for one in batch)
        done.update(zip(group, _speak_batch(model, fast, batch, settings, longest), strict=True))
    yield from (done[index] for index in range(len(utterances)))


def generation_arguments(settings: Settings) -> dict[str, Any]:
    """GREEDY, TEMPERATURE, TOP_P and TOP_K as stock `generate_*` takes them, for talker and sub-talker alike."""
    sampled = not settings.greedy
    arguments: dict[str, Any] = {"do_sample": sampled, "subtalker_dosample": sampled}
    for name in ("temperature", "top_p", "top_k"):
        arguments[name] = arguments[f"subtalker_{name}"] = getattr(settings, name)
    return arguments


def file_name(number: int, utterance: Utterance) -> str:
    """`<nn>-<speaker>.wav`, with only characters that are safe in a file name, and no more than a name can have."""
    speaker = re.sub(r"[^\w-]+", "-", utterance.speaker)[:40]
    return f"{number:02d}-{speaker}.wav"


def describe(sample: Sample, name: str, samples_per_frame: int, judges: Judges) -> dict[str, Any]:
    """One object of stats.json: what was asked for, what came out, and what is wrong with it."""
    stats = measure(sample.waveform, sample.sample_rate, samples_per_frame)
    utterance = sample.utterance
    size = sample.waveform.size
    found = gate.problems(stats, utterance.text, sample.frames, sample.stopped_by_eos, size, samples_per_frame)
    return {
        "file": name,
        "text": utterance.text,
        "speaker": utterance.speaker,
        "language": utterance.language,
        "instruct": utterance.instruct,
        "layout": utterance.layout,
        "frames": sample.frames,
        **{key: _rounded(value) for key, value in stats.as_dict().items()},
        "stopped_by_eos": sample.stopped_by_eos,
        "real_time_factor": _rounded(sample.real_time_factor),
        **_heard(sample, judges),
        "passed": not found,
        "problems": found,
    }


def write(
    directory: Path, samples: Sequence[Sample], described: Sequence[dict[str, Any]], used: dict[str, Any]
) -> None:
    """Replace `samples/` as a whole: no file of an earlier run stays among the new ones."""
    import soundfile

    def fill(temporary: Path) -> None:
        for sample, one in zip(samples, described, strict=True):
            finite = np.nan_to_num(sample.waveform, nan=0.0, posinf=1.0, neginf=-1.0)
            soundfile.write(str(temporary / one["file"]), finite, sample.sample_rate, subtype="PCM_16")
        value = {"samples": list(described), "summary": summarize(described), "settings": used}
        files.write_json(temporary / "stats.json", value)

    files.replace_directory(directory, fill)


def summarize(described: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Totals and means over the samples, of every metric that was measured."""
    total: dict[str, Any] = {
        "samples": len(described),
        "failed": sum(not one["passed"] for one in described),
        "stopped_by_eos": sum(bool(one["stopped_by_eos"]) for one in described),
        "seconds": _rounded(sum(one["seconds"] for one in described)),
    }
    for name in ("real_time_factor", "wer", "cer", "similarity", "mos"):
        values = [one[name] for one in described if one.get(name) is not None]
        if values:
            total[name] = _rounded(sum(values) / len(values))
    return total


def _fast(model: Qwen3TTSModel) -> FastTalker | None:
    """Our loop over frames for the model's talker; None, and a line that says why, if it is of another kind."""
    from job.evaluate.generation.stack import Unknown
    from job.evaluate.generation.talker import FastTalker

    try:
        return FastTalker(model.model.talker)  # type: ignore[attr-defined]
    except (Unknown, AttributeError) as reason:
        console.warn(STAGE, f"stock `generate` speaks, which takes longer; unknown to the faster one: {reason}")
        return None


def _speak_batch(
    model: Qwen3TTSModel, fast: FastTalker | None, batch: Sequence[Utterance], settings: Settings, longest: int
) -> list[Sample]:
    """One call of stock `generate_custom_voice`, its frames drawn by `fast` if there is one."""
    import torch

    from job.evaluate.generation.talker import generating
    from job.evaluate.recorder import GenerationRecorder, quiet_generation

    torch.manual_seed(settings.seed)
    started = time.perf_counter()
    with quiet_generation(), generating(model, fast), GenerationRecorder(model) as recorder:
        waveforms, sample_rate = model.generate_custom_voice(
            text=[one.text for one in batch],
            speaker=[one.speaker for one in batch],
            language=[one.language for one in batch],
            instruct=[one.instruct or "" for one in batch],
            non_streaming_mode=batch[0].layout == "non_streaming",
            max_new_tokens=longest,
            **generation_arguments(settings),
        )
    took = time.perf_counter() - started
    audio = sum(waveform.size for waveform in waveforms) / sample_rate
    return [
        Sample(
            utterance=utterance,
            waveform=np.asarray(waveform, dtype=np.float32),
            sample_rate=sample_rate,
            frames=len(spoken.codes),
            stopped_by_eos=spoken.stopped_by_eos,
            real_time_factor=took / audio if audio else math.inf,
        )
        for utterance, waveform, spoken in zip(batch, waveforms, recorder.spoken, strict=True)
    ]


def _batches(utterances: Sequence[Utterance]) -> list[list[int]]:
    """Positions of the utterances that are said together."""
    groups: list[list[int]] = []
    for layout in sorted({one.layout for one in utterances}):
        members = [index for index, one in enumerate(utterances) if one.layout == layout]
        members.sort(key=lambda index: len(utterances[index].text))
        groups += [members[start : start + BATCH] for start in range(0, len(members), BATCH)]
    return groups


def _heard(sample: Sample, judges: Judges) -> dict[str, Any]:
    """What the models that were given say about a sample; no key for one that was not."""
    heard: dict[str, Any] = {}
    finite = np.nan_to_num(sample.waveform, nan=0.0, posinf=1.0, neginf=-1.0)
    if judges.transcribe is not None:
        transcript = judges.transcribe(finite, sample.sample_rate) if finite.size else ""
        heard["transcript"] = transcript
        heard["wer"] = _rounded(metrics.word_error_rate(sample.utterance.text, transcript))
        heard["cer"] = _rounded(metrics.character_error_rate(sample.utterance.text, transcript))
    if judges.mos is not None:
        heard["mos"] = _rounded(judges.mos(finite, sample.sample_rate)) if finite.size else None
    if judges.similarity is not None:
        heard["similarity"] = _rounded(judges.similarity(sample.utterance.speaker, finite, sample.sample_rate))
    return heard


def _judges(settings: Settings, device: str) -> Judges:
    """Load the models that listen, before anything is spoken: a wrong name must not cost the speech."""
    from job.evaluate.similarity import load_similarity

    token = settings.token if settings.asr_model or settings.mos_model else None
    return Judges(
        transcribe=metrics.load_transcriber(settings.asr_model, device, token) if settings.asr_model else None,
        mos=metrics.load_mos(settings.mos_model, device, token) if settings.mos_model else None,
        similarity=load_similarity(settings, device),
    )


def _scaled(directory: Path, settings: Settings) -> Path:
    """The checkpoint, or a copy of it in the work directory with its adapter at LORA_SCALE."""
    if settings.lora_scale == 1.0:
        return directory
    from job.voices import scaled_model

    target = settings.paths.work / "scaled"
    scaled_model(directory, target, settings.lora_scale)
    return target


def _load(directory: Path, settings: Settings) -> Qwen3TTSModel:
    """The checkpoint, through stock `from_pretrained`.

    Raises:
        BadInput: it cannot be loaded.
    """
    import torch
    from safetensors import SafetensorError

    from job.models import load_model, resolve_device, resolve_precision

    device = resolve_device(settings)
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
    dtype = kinds[resolve_precision(settings, device)]
    try:
        return load_model(directory, device, dtype, settings.attn_implementation)
    except (OSError, ValueError, KeyError, TypeError, ImportError, SafetensorError) as error:
        reason = first_line(error)
        raise BadInput(f"{directory} cannot be loaded by qwen_tts ({reason}); rerun `python -m job train`") from error


def _prepared(paths: Paths) -> tuple[dict[str, Any], list[list[texts.Row]]]:
    """The summary and the rows of the splits, validation first; nothing when no data was prepared here."""
    from job.prepare.dataset import read_split, read_summary

    try:
        summary = read_summary(paths)
    except BadInput:
        return {}, []
    columns = ["text", "speaker", "language", "instruct"]
    tables = [read_split(paths, split).select(columns) for split in ("validation", "train")]
    return summary, [t.take(texts.spread(len(t), MOST_ROWS)).to_pylist() if len(t) else [] for t in tables]


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


def _rounded(value: Any) -> Any:
    """Six digits for a float, None for one that JSON cannot hold, anything else as it is."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
