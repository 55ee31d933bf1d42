"""Speech for tests and benchmarks: the embedded clips, joined, cut, and at another speed for each seed."""

from __future__ import annotations

from functools import cache

import numpy as np
import soundfile
import soxr

from job.demo import manifest

#: Sample rate of the embedded clips, Hz.
_RATE = 24_000


@cache
def _clips(language: str) -> list[np.ndarray]:
    return [soundfile.read(row["audio"], dtype="float32")[0] for row in manifest() if row["language"] == language]


def spoken(
    seconds: float, rate: int = 24_000, seed: int = 0, level: float = 0.3, language: str = "English"
) -> np.ndarray:
    """Speech of one of the embedded voices, different for each seed; float32 (samples,), its peak at `level`.

    It begins with another clip for each seed, and its speed (and so its pitch) is a few per cent off.
    """
    clips = _clips(language)
    speed = 0.9 + 0.2 * np.random.default_rng(seed).random()
    wanted = round(seconds * rate)
    parts: list[np.ndarray] = []
    number = seed
    while sum(len(part) for part in parts) / _RATE < (seconds + 0.1) * speed:
        parts.append(clips[number % len(clips)])
        number += 1
    wave = soxr.resample(np.concatenate(parts), _RATE * speed, rate)[:wanted]
    peak = np.abs(wave).max() if len(wave) else 1.0
    return (level * wave / max(peak, 1e-9)).astype(np.float32)
