"""Sounds that are no speech, each different for each seed: float32 (samples,), peak 0.3."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import butter, lfilter, sawtooth, sosfilt

RATE = 24_000

Sound = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _events(time: np.ndarray, random: np.random.Generator, every: float, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Short sounds at random places, one every so many seconds."""
    wave = np.zeros(len(time))
    for _ in range(max(1, int(len(time) / RATE / every))):
        event = make()
        start = int(random.integers(0, max(1, len(time) - len(event))))
        wave[start : start + len(event)] += event[: len(time) - start]
    return wave


def _applause(time: np.ndarray, random: np.random.Generator) -> np.ndarray:
    claps = _events(time, random, 1 / 60, lambda: random.standard_normal(1200) * np.exp(-np.arange(1200) / 150))
    return sosfilt(butter(2, [800, 3500], "band", fs=RATE, output="sos"), claps)


def _hum(time: np.ndarray, random: np.random.Generator) -> np.ndarray:
    mains = sum(np.sin(2 * np.pi * 50 * k * time + random.random() * 6) / k for k in range(1, 20))
    return mains + 0.05 * random.standard_normal(len(time))


def _chords(time: np.ndarray, random: np.random.Generator) -> np.ndarray:
    def chord() -> np.ndarray:
        t = np.arange(RATE) / RATE
        root = 110 * 2 ** (random.integers(0, 24) / 12)
        tones = [np.sin(2 * np.pi * root * third * k * t) / k for third in (1, 1.26, 1.5) for k in range(1, 5)]
        return sum(tones) * np.exp(-2 * t)

    return _events(time, random, 0.5, chord)


def _clicks(time: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return lfilter([1], [1, -0.7], _events(time, random, 1 / 8, lambda: np.ones(1)))


def _rain(time: np.ndarray, random: np.random.Generator) -> np.ndarray:
    spectrum = np.fft.rfft(random.standard_normal(len(time)))
    return np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1), len(time))


def _siren(time: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.sin(2 * np.pi * np.cumsum(700 + 300 * np.sin(2 * np.pi * (0.4 + 0.2 * random.random()) * time)) / RATE)


def _string(time: np.ndarray, random: np.random.Generator) -> np.ndarray:
    pitch = random.uniform(200, 300) * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * time))
    return sawtooth(2 * np.pi * np.cumsum(pitch) / RATE)


def _noise(time: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return random.standard_normal(len(time))


SOUNDS: dict[str, Sound] = {
    "applause": _applause,
    "hum": _hum,
    "chords": _chords,
    "clicks": _clicks,
    "rain": _rain,
    "siren": _siren,
    "string": _string,
    "noise": _noise,
}


def no_speech(kind: str, seconds: float, seed: int = 0) -> np.ndarray:
    """A sound of a kind in `SOUNDS` at `RATE`."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = SOUNDS[kind](time, np.random.default_rng(seed))
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)
