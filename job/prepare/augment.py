"""Altered copies of training recordings (AUGMENT_*): tempo, pitch, background noise, level."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from job.audio.clip import Samples, Unusable, load
from job.audio.resampling import resampling
from job.config.settings import Settings
from job.core.threads import in_order
from job.prepare.codec import Codec, Sizes
from job.prepare.encode import Item
from job.prepare.manifest_rows import Row
from job.prepare.readers import readers

if TYPE_CHECKING:
    Change = Callable[[Samples, int, np.random.Generator], Samples]

SPEEDS = (0.9, 1.1)
SEMITONES = (-2, 2)
#: Level of the added noise under the speech, in dB.
NOISE_SNR_DB = 25.0
VOLUME_DB = -6.0
#: STFT window of the phase vocoder: about 43 ms at 24 kHz, short enough for speech's fast changes.
_WINDOW = 1024


def changes(settings: Settings) -> dict[str, Change]:
    """Suffix of a copy's id -> how the copy is made. Empty unless an AUGMENT_* variable is set."""
    found: dict[str, Change] = {}
    if settings.augment_speed:
        found |= {f"speed{factor:g}": partial(_speed, factor=factor) for factor in SPEEDS}
    if settings.augment_pitch:
        found |= {f"pitch{steps:+d}": partial(_pitch, steps=steps) for steps in SEMITONES}
    if settings.augment_noise:
        found["noise"] = _noise
    if settings.augment_volume:
        found["volume"] = _volume
    return found


def read_copies(rows: Iterable[Row], settings: Settings, codec: Codec | Sizes, processes: int = 1) -> Iterator[Item]:
    """Yield altered copies of the rows' recordings, row by row, except those outside MIN_SECONDS to MAX_SECONDS.

    A copy has the row's text and speaker, and its id with a suffix, for example `17#speed0.9`. Its random numbers
    are seeded with SEED and that id. Rows without a recording (encoded by the vendor's script) have no copies.
    """
    wanted = changes(settings)

    def copies(row: Row) -> list[Item]:
        if row.audio is None or row.codes is not None:
            return []
        try:
            clip = load(row.audio, codec.sample_rate, start=row.start, end=row.end, max_seconds=settings.max_seconds)
        except Unusable:
            return []
        made = []
        for suffix, change in wanted.items():
            copy = replace(row, id=f"{row.id}#{suffix}", codes=None)
            samples = change(clip.samples, clip.rate, _random(settings.seed, copy.id))
            if settings.min_seconds <= len(samples) / clip.rate <= settings.max_seconds:
                made.append(Item(copy, samples=samples))
        return made

    for group in in_order(rows, copies, readers(settings, codec.device, processes)):
        yield from group


def _speed(samples: Samples, rate: int, random: np.random.Generator, *, factor: float) -> Samples:
    """Change the tempo but not the pitch: a `factor` of 1.1 turns (n,) into about (n / 1.1,)."""
    import librosa

    return _limited(librosa.effects.time_stretch(samples, rate=factor, n_fft=_WINDOW))


def _pitch(samples: Samples, rate: int, random: np.random.Generator, *, steps: int) -> Samples:
    """Shift the pitch by `steps` semitones without changing the tempo."""
    import librosa

    with resampling():
        shifted = librosa.effects.pitch_shift(samples, sr=rate, n_steps=steps, n_fft=_WINDOW, res_type="soxr_vhq")
    return _limited(shifted)


def _noise(samples: Samples, rate: int, random: np.random.Generator) -> Samples:
    """Add white noise `NOISE_SNR_DB` below the level of the whole recording."""
    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) * 10 ** (-NOISE_SNR_DB / 20)
    return _limited(samples + level * random.standard_normal(len(samples), dtype=np.float32))


def _volume(samples: Samples, rate: int, random: np.random.Generator) -> Samples:
    """Change the level by `VOLUME_DB`."""
    return _limited(samples * np.float32(10 ** (VOLUME_DB / 20)))


def _limited(samples: Samples) -> Samples:
    return np.clip(samples, -1.0, 1.0).astype(np.float32, copy=False)


def _random(seed: int, row_id: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}:{row_id}".encode()).digest()[:8], "big"))
