"""The speech gate: which samples count as failed speech, and what SYNTH_GATE does about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from job.core import console
from job.core.errors import SpeechFailed
from job.evaluate import checks, pace
from job.evaluate.audio_stats import AudioStats
from job.evaluate.hearing import Heard
from job.evaluate.own import Own
from job.text.letters import letters

#: Silence at either end that counts towards a text's duration, s.
EDGE = 0.5
#: Sounds shorter than this are not compared with the voice's bandwidth, s: a word may have no high-frequency consonant.
SHORT = 1.0


def problems(
    stats: AudioStats,
    heard: Heard,
    text: str,
    frames: int,
    stopped_by_eos: bool,
    samples: int,
    samples_per_frame: int,
    own: Own | None = None,
) -> list[str]:
    """Describe what is wrong with one sample; empty for a sample that passes.

    Args:
        stats: statistics of the waveform as the codec returned it.
        heard: features of the same waveform.
        text: the intended text.
        frames: number of frames the talker generated.
        stopped_by_eos: whether the talker ended by itself.
        samples: number of samples the codec returned.
        samples_per_frame: expected samples per frame.
        own: properties of the voice's own recordings, if known.
    """
    if frames == 0 or samples == 0:
        return ["empty"]
    found = [] if stopped_by_eos else ["never stopped"]
    if samples != frames * samples_per_frame:
        found.append(f"{samples} samples instead of {frames * samples_per_frame}")
    own = own or Own()
    return found + checks.judge(figures(stats, heard, text, own), own.off)


def figures(stats: AudioStats, heard: Heard, text: str, own: Own) -> dict[str, Any]:
    """Collect the figures for the table of checks: the sample's own, and those relative to its text and voice."""
    shortest, longest = pace.bounds(text, own.pace)
    spoken = stats.seconds - max(0.0, stats.lead - EDGE) - max(0.0, stats.trail - EDGE)
    long_enough = stats.seconds - stats.lead - stats.trail >= SHORT
    band, own_band = heard.bandwidth if long_enough else None, own.bandwidth
    bright, pitch = heard.brightest, heard.median_pitch
    return {
        **checks.measured(stats, heard),
        "letters": letters(text),
        "of_shortest": spoken / shortest if shortest > 0 else None,
        "of_longest": spoken / longest,
        "of_own_bandwidth": band / own_band if band is not None and own_band else None,
        "over_dullest": bright - own.dullest if bright is not None and own.dullest is not None else None,
        "of_lowest_pitch": pitch / own.pitch[0] if pitch is not None and own.pitch else None,
        "of_highest_pitch": pitch / own.pitch[1] if pitch is not None and own.pitch else None,
    }


def decide(switch: str, samples: Sequence[dict[str, Any]], share: float) -> None:
    """Apply SYNTH_GATE to the finished `samples` of stats.json: the gate fails if at least `share` of them failed.

    Raises:
        SpeechFailed: with `fail`. With `warn` a warning is printed, with `off` nothing happens.
    """
    failed = [sample for sample in samples if not sample["passed"]]
    if switch == "off" or not failed:
        return
    worst = failed[0]
    line = f"{len(failed)} of {len(samples)} samples failed, first {worst['file']} ({', '.join(worst['problems'])})"
    if switch == "fail" and len(failed) >= share * len(samples):
        raise SpeechFailed(
            f"SYNTH_GATE=fail: {line}; listen to them, train longer, or set SYNTH_GATE=warn or SYNTH_GATE_SHARE higher"
        )
    console.warn("synthesize", line)
