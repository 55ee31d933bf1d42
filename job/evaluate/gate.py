"""When a sample counts as failed speech, and what SYNTH_GATE does about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from job import console
from job.errors import SpeechFailed
from job.evaluate.audio_stats import AudioStats

#: Below this RMS (-60 dBFS) a whole file is silence.
SILENT_RMS = 1e-3
#: From this share of clipped samples on, speech is heard as distorted.
CLIPPED_SHARE = 0.01
#: Speech that is this much silence says next to nothing.
SILENT_SHARE = 0.95
#: A pause this long inside one text is a voice that lost its place, s.
LONGEST_PAUSE = 3.0
#: Letters and digits a second that nobody says, in any script (auctioneers reach 25): what is shorter was cut off.
MOST_LETTERS_A_SECOND = 40.0


def problems(
    stats: AudioStats, text: str, frames: int, stopped_by_eos: bool, samples: int, samples_per_frame: int
) -> list[str]:
    """What is wrong with one sample, in words; nothing for a sample that passes.

    Args:
        stats: of the waveform as it came from the codec.
        text: what was to be said.
        frames: frames that the talker made.
        stopped_by_eos: whether it ended by itself.
        samples: samples that the codec returned.
        samples_per_frame: samples a frame should give.
    """
    if frames == 0 or samples == 0:
        return ["empty"]
    found = []
    if stats.non_finite:
        found.append(f"{stats.non_finite} samples are not finite")
    if stats.rms < SILENT_RMS or stats.silence_fraction >= SILENT_SHARE:
        found.append("silent")
    if not stopped_by_eos:
        found.append("never stopped")
    letters = sum(character.isalnum() for character in text)
    if letters > MOST_LETTERS_A_SECOND * stats.seconds:
        found.append(f"{stats.seconds:.2f} s are too short for {letters} letters")
    if stats.clipped > CLIPPED_SHARE:
        found.append(f"{stats.clipped:.1%} clipped")
    if stats.longest_inner_silence > LONGEST_PAUSE:
        found.append(f"a pause of {stats.longest_inner_silence:.1f} s")
    if samples != frames * samples_per_frame:
        found.append(f"{samples} samples instead of {frames * samples_per_frame}")
    if stats.pops:
        found.append(f"{stats.pops} pops where the codec joins chunks")
    return found


def decide(switch: str, samples: Sequence[dict[str, Any]]) -> None:
    """Apply SYNTH_GATE to the finished `samples` of stats.json: more than half of them failing is a failure.

    Raises:
        SpeechFailed: under `fail`. Under `warn` a warning is printed, under `off` nothing.
    """
    failed = [sample for sample in samples if not sample["passed"]]
    if switch == "off" or not failed:
        return
    worst = failed[0]
    line = f"{len(failed)} of {len(samples)} samples failed, first {worst['file']} ({', '.join(worst['problems'])})"
    if switch == "fail" and 2 * len(failed) > len(samples):
        raise SpeechFailed(f"SYNTH_GATE=fail: {line}; listen to them, train longer, or set SYNTH_GATE=warn")
    console.warn("synthesize", line)
