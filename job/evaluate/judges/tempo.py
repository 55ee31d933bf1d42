"""Whether speech gets faster or slower on the way: how fast its spectrum changes at the end, and at the beginning.

It needs no text: nobody knows which words were said in which third, without a recogniser that tells times.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from job.evaluate.audio_stats import sounding
from job.evaluate.hearing import FRAMES_A_SECOND, PAUSE_DB, mel_bands

#: Shortest sound that can be measured, s: its thirds then have a dozen syllables.
SHORTEST = 7.0
#: Each mel band, between these frequencies, crosses its mean more often the faster somebody speaks.
MODULATIONS = (1.5, 20.0)
#: The logarithm of the rate changes by so much more than that of the crossings: espeak-ng's texts in twelve languages,
#: half said at 130 and half at 165 words a minute.
STEEPER = 1.7


def rate_drift(waveform: NDArray[np.float32], sample_rate: int) -> float | None:
    """Return by which share the last third of a sound (samples,) is spoken faster than the first; None for short ones.

    Pauses do not count. Speech at a steady rate has 0.1 of either sign by chance.
    """
    from scipy.signal import butter, sosfiltfilt

    first, last = sounding(waveform, sample_rate)
    if last - first < SHORTEST * sample_rate:
        return None
    bands = mel_bands(np.asarray(waveform[first:last], dtype=np.float64), sample_rate)
    level = bands.mean(axis=0)
    spoken = (level > np.percentile(level, 95) - PAUSE_DB)[1:]
    moving = sosfiltfilt(butter(2, MODULATIONS, "bandpass", fs=FRAMES_A_SECOND, output="sos"), bands, axis=1)
    crossings = np.diff(np.signbit(moving), axis=1).mean(axis=0)[spoken]
    third = crossings.size // 3
    before, after = crossings[:third].mean(), crossings[-third:].mean()
    return float((after / before) ** STEEPER - 1) if before > 0 and after > 0 else None
