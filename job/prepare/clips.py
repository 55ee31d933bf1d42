"""Select the clips that represent a speaker's voice: clean, full bandwidth, and mostly speech."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from job.audio.clip import CLIPPED_SHARE, LOW_RATE
from job.audio.speech import LITTLE, LONG_PAUSE
from job.prepare.quality import Tally

#: Clips of this many seconds suit an x-vector best.
PREFERRED_SECONDS = (3.0, 10.0)
#: Clips whose x-vectors are averaged by strategy `best`.
BEST_CLIPS = 5
#: Share of speech from which a clip counts as mostly speech: sentences have about 0.8, with silence at both ends 0.6.
FULL = 0.6


def ranked(rows: NDArray[np.int64], tally: Tally, most: int = BEST_CLIPS) -> NDArray[np.int64]:
    """Indices into `rows` (a speaker's kept rows) of the `most` best clips; other voices' only if all rows are."""
    own = np.flatnonzero(~np.isin(rows, tally.other_voices))
    own = own if len(own) else np.arange(len(rows))
    chosen = rows[own]
    snr, clipped, rate, speech, pause = (tally[name][chosen] for name in ("snr", "clipped", "rate", "speech", "pause"))
    return np.asarray(own[best_clips(tally.seconds[chosen], snr, clipped, rate, speech, pause, most)])


def best_clips(
    seconds: NDArray[np.float64],
    snr: NDArray[np.float64],
    clipped: NDArray[np.float64],
    rate: NDArray[np.int32],
    speech: NDArray[np.float64] | None = None,
    pause: NDArray[np.float64] | None = None,
    most: int = BEST_CLIPS,
) -> NDArray[np.int64]:
    """Select the cleanest clips of a speaker: 3 to 10 s, unclipped, highest SNR; otherwise the longest.

    Telephone recordings are used only if there are no others: without high frequencies they have little noise, but not
    the whole voice either. The same holds, first of all, for clips with little speech or a long pause, which measure
    cleanest of all.

    Args:
        seconds: (n,) lengths.
        snr: (n,) signal-to-noise ratio of the speech in dB; NaN if not measured.
        clipped: (n,) share of clipped samples; NaN where it was not measured.
        rate: (n,) sample rate of the recording, Hz; 0 where it was not measured.
        speech: (n,) share of speech; NaN if not measured, None if it was measured for no clip.
        pause: (n,) longest pause in seconds, likewise.
        most: number of clips to return.

    Returns:
        indices of at most `most` clips, the best first.
    """
    share = np.full(len(seconds), np.nan) if speech is None else speech
    silence = np.full(len(seconds), np.nan) if pause is None else pause
    spoken = ~(share < LITTLE) & ~(silence > LONG_PAUSE)
    spoken = spoken if spoken.any() else np.ones(len(seconds), dtype=bool)
    unclipped = spoken & ~(clipped > CLIPPED_SHARE)
    wide = unclipped & ((rate == 0) | (rate >= LOW_RATE))
    clean = np.flatnonzero(wide if wide.any() else unclipped)
    low, high = PREFERRED_SECONDS
    preferred = clean[(seconds[clean] >= low) & (seconds[clean] <= high)]
    if len(preferred):
        order = np.lexsort((-np.nan_to_num(snr[preferred]), share[preferred] < FULL))
        return np.asarray(preferred[order][:most])
    others = clean if len(clean) else np.flatnonzero(spoken)
    return np.asarray(others[np.argsort(-seconds[others], kind="stable")][:most])
