"""What is known of each sample: measured, heard by the models that were asked for, and written to `samples/`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from job.config.settings import Settings
from job.core import files
from job.evaluate import metrics, speech_gate
from job.evaluate.audio_stats import measure
from job.evaluate.hearing import listen
from job.evaluate.own import Own
from job.evaluate.speaking import Sample
from job.evaluate.spoken_texts import Utterance

if TYPE_CHECKING:
    from job.evaluate.similarity import Similarity


@dataclass(frozen=True)
class Judges:
    """The optional models that listen to the samples."""

    transcribe: metrics.Transcriber | None = None
    mos: metrics.Scorer | None = None
    similarity: Similarity | None = None


def load_judges(settings: Settings, device: str) -> Judges:
    """Load the models that listen, before anything is spoken: a wrong name must not cost the speech."""
    from job.evaluate.similarity import load_similarity

    token = settings.token if settings.asr_model or settings.mos_model else None
    return Judges(
        transcribe=metrics.load_transcriber(settings.asr_model, device, token) if settings.asr_model else None,
        mos=metrics.load_mos(settings.mos_model, device, token) if settings.mos_model else None,
        similarity=load_similarity(settings, device),
    )


def file_name(number: int, utterance: Utterance) -> str:
    """`<nn>-<speaker>.wav`, with only characters that are safe in a file name, and no more than a name can have."""
    speaker = re.sub(r"[^\w-]+", "-", utterance.speaker)[:40]
    return f"{number:02d}-{speaker}.wav"


def describe(
    sample: Sample, name: str, samples_per_frame: int, judges: Judges, own: Own | None = None
) -> dict[str, Any]:
    """One object of stats.json: what was asked for, what came out, and what is wrong with it.

    `own` is what the voice's own recordings are like.
    """
    stats = measure(sample.waveform, sample.sample_rate, samples_per_frame)
    heard = listen(sample.waveform, sample.sample_rate)
    utterance = sample.utterance
    size = sample.waveform.size
    found = speech_gate.problems(
        stats, heard, utterance.text, sample.frames, sample.stopped_by_eos, size, samples_per_frame, own
    )
    return {
        "file": name,
        "text": utterance.text,
        "speaker": utterance.speaker,
        "language": utterance.language,
        "instruct": utterance.instruct,
        "layout": utterance.layout,
        "frames": sample.frames,
        **{key: _rounded(value) for key, value in {**stats.as_dict(), **heard.as_dict()}.items()},
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

    def fill(temporary: Path) -> None:
        for sample, one in zip(samples, described, strict=True):
            write_wav(temporary / one["file"], sample)
        value = {"samples": list(described), "summary": summarize(described), "settings": used}
        files.write_json(temporary / "stats.json", value)

    files.replace_directory(directory, fill)


def write_wav(path: Path, sample: Sample) -> None:
    """What was said, in 16 bits; what is not finite as silence or at full scale."""
    import soundfile

    soundfile.write(str(path), _finite(sample), sample.sample_rate, subtype="PCM_16", format="WAV")


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


def _heard(sample: Sample, judges: Judges) -> dict[str, Any]:
    """What the models that were given say about a sample; no key for one that was not."""
    heard: dict[str, Any] = {}
    finite = _finite(sample)
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


def _finite(sample: Sample) -> NDArray[np.float32]:
    return np.nan_to_num(sample.waveform, nan=0.0, posinf=1.0, neginf=-1.0)


def _rounded(value: Any) -> Any:
    """Six digits for a float, None for one that JSON cannot hold, anything else as it is."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
