"""Baselines for a voice: its recordings, the recordings passed through the codec, and the base model cloning it.

No speech from this codec can sound better than recordings passed through it; and fine-tuning is worthwhile if the voice
sounds better than the base model given one recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from job.config.settings import Settings
from job.core import console, files
from job.core.errors import JobError, first_line
from job.evaluate import spoken_texts
from job.evaluate.judges.judge import Clip, finite
from job.evaluate.speaking import Sample, speak
from job.evaluate.spoken_texts import Utterance
from job.model.loading import base_directory, read_config

if TYPE_CHECKING:
    from qwen_tts import Qwen3TTSModel

#: Number of recordings judged over all speakers, and the minimum per speaker.
RECORDINGS, FEWEST = 6, 2
#: Number of recordings per speaker among which a reference for in-context cloning is chosen.
REFERENCES = 16
#: Longest recording judged, and the ideal length of a reference for in-context cloning, s.
LONGEST, REFERENCE = 12.0, 6.0


@dataclass(frozen=True)
class Recording:
    """One prepared row: id, text, speaker, codes (frames, codebooks) and length, s."""

    id: str
    text: str
    speaker: str
    language: str
    seconds: float
    codes: np.ndarray[Any, np.dtype[np.int16]] = field(repr=False)


def choose(splits: Sequence[pa.Table], speakers: Sequence[str], each: int | None = None) -> list[Recording]:
    """Choose some recordings of each speaker, held-out ones first: evenly spaced, from the first split that has any.

    Args:
        splits: prepared splits, the preferred one first.
        speakers: the speakers.
        each: number of recordings per speaker.
    """
    from job.dataset.prepared import row_codes

    each = each or max(FEWEST, RECORDINGS // max(1, len(speakers)))
    names = ("id", "text", "speaker", "language", "seconds")
    found = []
    for speaker in speakers:
        for table in splits:
            fits = pc.and_(pc.equal(table["speaker"], speaker), pc.less_equal(table["seconds"], LONGEST))
            rows = np.flatnonzero(fits.to_numpy())
            for row in rows[spoken_texts.spread(len(rows), each)]:
                values = {name: table[name][int(row)].as_py() for name in names}
                found.append(Recording(**values, codes=row_codes(table, int(row))))
            if len(rows):
                break
    return found


def as_recorded(recordings: Sequence[Recording], settings: Settings, sample_rate: int) -> list[Clip]:
    """Load the original recordings whose files still exist; none for data that was imported as codes."""
    from job.audio.clip import Unusable, load

    wanted = {one.id: one for one in recordings}
    clips = []
    for manifest in (settings.paths.manifest("validation"), settings.paths.manifest("train")):
        if not manifest.is_file() or not wanted:
            continue
        for row in files.read_jsonl(manifest):
            one = wanted.pop(str(row.get("id")), None)
            if one is None or not row.get("audio"):
                continue
            try:
                clip = load(Path(row["audio"]), sample_rate, start=row.get("start"), end=row.get("end"))
            except (Unusable, OSError):
                continue
            clips.append(Clip(finite(clip.samples), sample_rate, one.text, one.speaker, one.language))
            if not wanted:
                break
    return clips


def through_codec(model: Qwen3TTSModel, recordings: Sequence[Recording]) -> list[Clip]:
    """Decode the recordings' codes with the model's codec."""
    import torch

    tokenizer: Any = model.model.speech_tokenizer  # type: ignore[attr-defined]
    clips = []
    for one in recordings:  # unbatched: they are few, and padding would cost more
        (waveform,), rate = tokenizer.decode([{"audio_codes": torch.from_numpy(one.codes.astype(np.int64))}])
        clips.append(Clip(finite(waveform), int(rate), one.text, one.speaker, one.language))
    return clips


def left_out(settings: Settings, device: str) -> str | None:
    """Return why the base model does not clone the voice; None if it does. Does not load weights."""
    if settings.baselines is False:
        return "BASELINES=false"
    if settings.baselines is None and device == "cpu":
        return "on a CPU it would take long (BASELINES=true does it)"
    if not settings.paths.speakers.is_file():
        return "there are no prepared x-vectors to clone from"
    try:
        kind = read_config(base_directory(settings)).kind
    except JobError as error:
        return first_line(error)
    if kind != "base":
        return f"a {kind} model cannot clone"
    return None


def cloned(
    settings: Settings,
    model: Qwen3TTSModel,
    utterances: Sequence[Utterance],
    references: Sequence[Recording],
    frames_per_character: float,
) -> dict[str, list[Sample]]:
    """Have the base model say the texts by cloning the speakers: by x-vector, and in context where possible.

    Args:
        settings: sampling, as for the voice.
        model: the base.
        utterances: the same as the voice says.
        references: recordings for in-context cloning.
        frames_per_character: as for the voice.
    """
    import torch
    from qwen_tts.inference.qwen3_tts_model import VoiceClonePromptItem

    from job.dataset.prepared import read_speakers

    vectors = read_speakers(settings.paths)
    languages = read_config(base_directory(settings))
    said = [
        replace(one, language=spoken_texts.spoken_language(languages, one.language), instruct=None)
        for one in utterances
    ]
    if any(one.speaker not in vectors for one in said):
        return {}
    by_vector = {name: VoiceClonePromptItem(None, vector, True, False) for name, vector in vectors.items()}
    found = {"base": list(speak(model, said, settings, frames_per_character, by_vector))}
    if settings.init_model_path == "demo":  # random weights tell as little in one way as in two, in half the time
        return found
    in_context = {}
    for name in {one.speaker for one in said}:
        reference = reference_of(references, name, {one.text for one in said})
        if reference is not None:
            codes = torch.from_numpy(reference.codes.astype(np.int64)).to(model.device)
            in_context[name] = VoiceClonePromptItem(codes, vectors[name], False, True, reference.text)
    if all(one.speaker in in_context for one in said):
        found["base_in_context"] = list(speak(model, said, settings, frames_per_character, in_context))
    else:
        console.say("synthesize", "cloning in context is left out: no recording beside those whose texts are said")
    return found


def reference_of(recordings: Sequence[Recording], speaker: str, said: set[str]) -> Recording | None:
    """Choose the speaker's recording closest to the ideal length, among those whose text is not in `said`."""
    mine = [one for one in recordings if one.speaker == speaker and one.text not in said]
    return min(mine, key=lambda one: abs(one.seconds - REFERENCE), default=None)
