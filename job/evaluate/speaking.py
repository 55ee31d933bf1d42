"""Batched speech generation with a loaded model.

Stock `generate_custom_voice` does everything but the loop over frames, which is done by `job.generation` if it supports
the model: the same codes in a fraction of the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from job.config.settings import Settings
from job.core import console, files
from job.evaluate import spoken_texts
from job.evaluate.spoken_texts import Utterance

if TYPE_CHECKING:
    from qwen_tts import Qwen3TTSModel
    from qwen_tts.inference.qwen3_tts_model import VoiceClonePromptItem

    from job.generation.talker import FastTalker

    #: Speaker name -> voice-clone prompt for a base model.
    Prompts = Mapping[str, VoiceClonePromptItem]

#: Texts per batch. A step takes hardly longer for eight than for one; they are padded to the longest.
BATCH = 8


@dataclass(frozen=True)
class Sample:
    """One spoken utterance.

    Attributes:
        utterance: the request.
        waveform: float32, shape (samples,), as the codec returned it.
        sample_rate: Hz.
        frames: number of codec frames, without the end token.
        stopped_by_eos: whether the talker ended by itself.
        real_time_factor: compute seconds per second of audio, over the whole batch; below 1 is faster than real time.
    """

    utterance: Utterance
    waveform: NDArray[np.float32]
    sample_rate: int
    frames: int
    stopped_by_eos: bool
    real_time_factor: float


def conditions(settings: Settings, directory: Path) -> tuple[list[Any], list[Any]]:
    """What speech depends on besides the texts: the settings, and the sizes and times of a model's weights."""
    names = ("seed", "greedy", "temperature", "top_p", "top_k", "max_new_tokens", "lora_scale", "mixed_precision")
    weights = [files.stamp(path)[1:] for path in sorted(directory.glob("*.safetensors"))]
    return [getattr(settings, name) for name in names], weights


def speak(
    model: Qwen3TTSModel,
    utterances: Sequence[Utterance],
    settings: Settings,
    frames_per_character: float,
    prompts: Prompts | None = None,
) -> Iterator[Sample]:
    """Say all utterances in batches of one layout and similar length; yields samples in the order given.

    Every batch starts from SEED, so that a rerun gives the same speech. A base model clones speakers with `prompts`.
    """
    done: dict[int, Sample] = {}
    fast = fast_talker(model)
    groups = _batches(utterances)
    for group in console.progress(groups, stage="synthesize", total=len(groups), unit="batches"):
        batch = [utterances[index] for index in group]
        longest = max(spoken_texts.budget(settings, one.text, frames_per_character) for one in batch)
        done.update(zip(group, _speak_batch(model, fast, batch, settings, longest, prompts), strict=True))
    yield from (done[index] for index in range(len(utterances)))


def speak_with_seeds(
    model: Qwen3TTSModel,
    utterances: Sequence[Utterance],
    settings: Settings,
    frames_per_character: float,
    seeds: Sequence[int],
    prompts: Prompts | None = None,
) -> list[list[Sample]]:
    """Say all utterances once for each of `seeds`, which are added to SEED; with GREEDY, where none matters, once.

    Returns:
        for each seed, its samples in the order given.
    """
    found = []
    for number in seeds[:1] if settings.greedy else seeds:
        seeded = settings.model_copy(update={"seed": settings.seed + number})
        found.append(list(speak(model, utterances, seeded, frames_per_character, prompts)))
    return found


def generation_arguments(settings: Settings) -> dict[str, Any]:
    """Convert GREEDY, TEMPERATURE, TOP_P and TOP_K to arguments of stock `generate_*`, for talker and sub-talker."""
    sampled = not settings.greedy
    arguments: dict[str, Any] = {"do_sample": sampled, "subtalker_dosample": sampled}
    for name in ("temperature", "top_p", "top_k"):
        arguments[name] = arguments[f"subtalker_{name}"] = getattr(settings, name)
    return arguments


def fast_talker(model: Qwen3TTSModel) -> FastTalker | None:
    """Create the fast generation loop for the model's talker; None, with a message, if it is unsupported."""
    from job.generation.stack import Unknown
    from job.generation.talker import FastTalker

    try:
        return FastTalker(model.model.talker)  # type: ignore[attr-defined]
    except (Unknown, AttributeError) as reason:
        console.warn("synthesize", f"stock `generate` speaks, which takes longer; unknown to the faster one: {reason}")
        return None


def _speak_batch(
    model: Qwen3TTSModel,
    fast: FastTalker | None,
    batch: Sequence[Utterance],
    settings: Settings,
    longest: int,
    prompts: Prompts | None,
) -> list[Sample]:
    """Call stock `generate_custom_voice` or `_voice_clone` once, with frames sampled by `fast` if given."""
    import torch

    from job.generation.recorder import GenerationRecorder, quiet_generation
    from job.generation.talker import generating

    torch.manual_seed(settings.seed)
    started = time.perf_counter()
    with quiet_generation(), generating(model, fast), GenerationRecorder(model) as recorder:
        arguments = {
            "text": [one.text for one in batch],
            "language": [one.language for one in batch],
            "non_streaming_mode": batch[0].layout == "non_streaming",
            "max_new_tokens": longest,
            **generation_arguments(settings),
        }
        if prompts is None:
            waveforms, sample_rate = model.generate_custom_voice(
                speaker=[one.speaker for one in batch],
                instruct=[one.instruct or "" for one in batch],
                **arguments,
            )
        else:
            waveforms, sample_rate = model.generate_voice_clone(
                voice_clone_prompt=[prompts[one.speaker] for one in batch], **arguments
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
    """Group utterances into batches, as lists of their indices."""
    groups: list[list[int]] = []
    for layout in sorted({one.layout for one in utterances}):
        members = [index for index, one in enumerate(utterances) if one.layout == layout]
        members.sort(key=lambda index: len(utterances[index].text))
        groups += [members[start : start + BATCH] for start in range(0, len(members), BATCH)]
    return groups
