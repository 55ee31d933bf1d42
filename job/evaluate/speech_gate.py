"""When a sample counts as failed speech, and what SYNTH_GATE does about it."""

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

#: Silence at either end that is part of a text's time, s.
EDGE = 0.5
#: Sounds shorter than this are not compared with the voice's bandwidth, s: a word may have no consonant that is high.
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
    """What is wrong with one sample, in words; nothing for a sample that passes.

    Args:
        stats: of the waveform as it came from the codec.
        heard: of the same.
        text: what was to be said.
        frames: frames that the talker made.
        stopped_by_eos: whether it ended by itself.
        samples: samples that the codec returned.
        samples_per_frame: samples a frame should give.
        own: what the voice's own recordings are like, where that is known.
    """
    if frames == 0 or samples == 0:
        return ["empty"]
    found = [] if stopped_by_eos else ["never stopped"]
    if samples != frames * samples_per_frame:
        found.append(f"{samples} samples instead of {frames * samples_per_frame}")
    own = own or Own()
    return found + checks.judge(figures(stats, heard, text, own), own.off)


def figures(stats: AudioStats, heard: Heard, text: str, own: Own) -> dict[str, Any]:
    """All that the table of checks asks for: the sample's figures, and those against its text and its voice."""
    shortest, longest = pace.bounds(text, own.pace)
    spoken = stats.seconds - max(0.0, stats.lead - EDGE) - max(0.0, stats.trail - EDGE)
    long_enough = stats.seconds - stats.lead - stats.trail >= SHORT
    band, own_band = heard.bandwidth if long_enough else None, own.bandwidth
    return {
        **checks.measured(stats, heard),
        "letters": letters(text),
        "of_shortest": spoken / shortest if shortest > 0 else None,
        "of_longest": spoken / longest,
        "of_own_bandwidth": band / own_band if band is not None and own_band else None,
    }


def decide(switch: str, samples: Sequence[dict[str, Any]], share: float) -> None:
    """Apply SYNTH_GATE to the finished `samples` of stats.json: from this share of them on failing is a failure.

    Raises:
        SpeechFailed: under `fail`. Under `warn` a warning is printed, under `off` nothing.
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
