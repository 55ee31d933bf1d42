"""Description of each sample for stats.json, and writing of `samples/`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from job.core import files
from job.evaluate import speech_gate
from job.evaluate.audio_stats import measure
from job.evaluate.comparison import mean
from job.evaluate.hearing import listen
from job.evaluate.judges.figures import BY_NAME
from job.evaluate.judges.judge import Clip, finite
from job.evaluate.own import Own
from job.evaluate.speaking import Sample
from job.evaluate.spoken_texts import ORIGINS, Utterance


def file_name(number: int, utterance: Utterance) -> str:
    """Return `<nn>-<speaker>.wav`, limited to safe characters and the maximum length of a file name."""
    speaker = re.sub(r"[^\w-]+", "-", utterance.speaker)[:40]
    return f"{number:02d}-{speaker}.wav"


def describe(sample: Sample, name: str, samples_per_frame: int, own: Own | None = None) -> dict[str, Any]:
    """Describe a sample as an object of stats.json: what was requested, what was generated, and its problems.

    `own` has the properties of the voice's own recordings.
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
        "passed": not found,
        "problems": found,
    }


def heard_as(sample: Sample) -> Clip:
    """Convert a sample to the `Clip` that judges rate."""
    asked = sample.utterance
    return Clip(finite(sample.waveform), sample.sample_rate, asked.text, asked.speaker, asked.language)


def write(directory: Path, sounds: Mapping[str, Sample], stats: dict[str, Any]) -> None:
    """Replace `samples/` as a whole, so that no files of an earlier run remain."""

    def fill(temporary: Path) -> None:
        for name, sample in sounds.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            write_wav(temporary / name, sample)
        files.write_json(temporary / "stats.json", stats)

    files.replace_directory(directory, fill)


def write_wav(path: Path, sample: Sample) -> None:
    """Write a sample as 16-bit WAV; NaN samples become silence and infinite ones full scale."""
    import soundfile

    soundfile.write(str(path), finite(sample.waveform), sample.sample_rate, subtype="PCM_16", format="WAV")


def summarize(described: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compute totals and means over the samples for every metric that was measured."""
    total: dict[str, Any] = {
        "samples": len(described),
        "failed": sum(not one["passed"] for one in described),
        "stopped_by_eos": sum(bool(one["stopped_by_eos"]) for one in described),
        "seconds": _rounded(sum(one["seconds"] for one in described)),
    }
    for name in ("real_time_factor", *BY_NAME):
        value = mean(described, name)
        if value is not None:
            total[name] = value
    return total


def by_origin(described: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Compute the same for the texts of each origin (`spoken_texts.ORIGINS`), apart from each other."""
    groups = {name: [one for one in described if one.get("origin") == name] for name in ORIGINS}
    return {name: summarize(some) for name, some in groups.items() if some}


def _rounded(value: Any) -> Any:
    """Round a float to six digits, None if JSON cannot represent it; return anything else unchanged."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
