"""Prosody: speaking rate, whether it drifts, pitch and pitch range, to be compared with the voice's own recordings."""

from __future__ import annotations

from typing import Any

import numpy as np

from job.config.settings import Settings
from job.evaluate.audio_stats import sounding
from job.evaluate.hearing import LONGEST, pitches
from job.evaluate.judges.judge import Clip, Judge
from job.evaluate.judges.tempo import rate_drift
from job.text.letters import letters

#: Shortest sound that can be measured, s.
SHORTEST = 0.3


class Prosody(Judge):
    """Measures without a model."""

    name = "prosody"
    by = "measured (version 2)"

    def __call__(self, clip: Clip) -> dict[str, Any]:
        """Return `letters_per_second` (pauses included), `rate_drift`, `pitch` in Hz, `pitch_range` in semitones."""
        nothing = dict.fromkeys(("letters_per_second", "rate_drift", "pitch", "pitch_range"))
        first, last = sounding(clip.waveform, clip.sample_rate)
        sound = np.asarray(clip.waveform[first:last], dtype=np.float64)
        seconds = sound.size / clip.sample_rate
        if seconds < SHORTEST:
            return nothing
        count = letters(clip.text)
        found: dict[str, Any] = {**nothing, "letters_per_second": count / seconds if count else None}
        found["rate_drift"] = rate_drift(clip.waveform, clip.sample_rate)
        hertz = pitches(sound[: round(LONGEST * clip.sample_rate)], clip.sample_rate)
        if hertz is not None:
            low, high = np.percentile(hertz, (10, 90))
            found |= {"pitch": float(np.median(hertz)), "pitch_range": float(12 * np.log2(high / low))}
        return found


def load(settings: Settings, device: str) -> Prosody:
    """Create the judge, which needs no model."""
    return Prosody()
