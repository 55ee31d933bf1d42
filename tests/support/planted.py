"""Faults to plant in good speech, for the test and the benchmark of what the gate hears.

Each takes speech, float (samples,) at 24 kHz, and a generator of random numbers, and gives the faulty sound.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import soxr

RATE = 24_000
Plant = Callable[[np.ndarray, np.random.Generator], np.ndarray]

#: The vocoder's window and step (samples), and how many coefficients tell the shape of the vocal tract.
_WINDOW, _STEP, _ORDER = 600, 240, 22


def silence(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.zeros_like(wave)


def white(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 0.1, wave.size)


def pink(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    spectrum = np.fft.rfft(rng.normal(0, 1, wave.size))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(spectrum.size))), wave.size)
    return 0.1 * noise / noise.std()


def hum(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(wave.size) / RATE
    parts = [a * np.sin(2 * np.pi * n * 60 * time + rng.uniform(0, 6)) for n, a in ((1, 0.2), (2, 0.05), (3, 0.08))]
    return np.sum(parts, axis=0)


def at_speed(factor: float) -> Plant:
    return lambda wave, rng: soxr.resample(wave, factor * RATE, RATE)


def first_half(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return wave[: wave.size // 2]


def loop(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The loudest 50 ms, for as long as the speech was."""
    length = RATE // 20
    start = int(np.argmax(np.convolve(wave**2, np.ones(length), "valid")))
    return np.resize(wave[start : start + length], wave.size)


def at_level(decibels: float) -> Plant:
    return lambda wave, rng: wave * 10 ** (decibels / 20) / np.sqrt(np.mean(wave**2))


def overdriven(level: float) -> Plant:
    """Four times too loud for full scale, then brought to a level."""
    return lambda wave, rng: level * np.clip(4 * wave / np.abs(wave).max(), -1, 1)


def through(rate: int) -> Plant:
    """Through a lower sample rate, which cuts the band off at half of it."""
    return lambda wave, rng: soxr.resample(soxr.resample(wave, RATE, rate), rate, RATE)


def robot(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return vocoded(wave, rng, rng.uniform(80, 180), 0.0)


def vocoded(wave: np.ndarray, rng: np.random.Generator, pitch: float = 120.0, moves: float = 4.0) -> np.ndarray:
    """Speech said anew by a vocoder, pulses through filters: at `pitch` Hz, give or take some semitones."""
    from scipy.linalg import solve_toeplitz
    from scipy.signal import lfilter

    time = np.arange(wave.size + _WINDOW) / RATE
    hertz = pitch * 2 ** (moves / 12 * np.sin(2 * np.pi * 1.3 * time))
    pulses = np.diff(np.floor(np.cumsum(hertz) / RATE), prepend=0.0)
    window = np.hanning(_WINDOW)
    said = np.zeros(time.size)
    for start in range(0, wave.size - _WINDOW, _STEP):
        frame = wave[start : start + _WINDOW] * window
        energy = float(np.sum(frame**2))
        if energy < 1e-5:
            continue
        products = np.correlate(frame, frame, "full")[_WINDOW - 1 : _WINDOW + _ORDER]
        products[0] *= 1 + 1e-5
        filter_ = np.concatenate([[1.0], -solve_toeplitz(products[:-1], products[1:])])
        again = lfilter([1.0], filter_, pulses[start : start + _WINDOW]) * window
        said[start : start + _WINDOW] += again * np.sqrt(energy / max(float(np.sum(again**2)), 1e-12))
    return said[: wave.size]


#: What is heard in the sound alone.
SOUNDS: dict[str, Plant] = {
    "silent": silence,
    "white noise": white,
    "pink noise": pink,
    "60 Hz hum": hum,
    "a loop of 50 ms": loop,
    "said 3 times": lambda wave, rng: np.tile(wave, 3),
    "said 10 times": lambda wave, rng: np.tile(wave, 10),
    "60 s of silence before": lambda wave, rng: np.concatenate([np.zeros(60 * RATE), wave]),
    "20 s of silence after": lambda wave, rng: np.concatenate([wave, np.zeros(20 * RATE)]),
    "level of -45 dBFS": at_level(-45),
    "DC of 0.3": lambda wave, rng: wave + 0.3,
    "clipped at full scale": overdriven(1.0),
    "clipped, then softer": overdriven(0.3),
    "band of 4 kHz (telephone)": through(8000),
    "a robot (vocoder at one pitch)": robot,
    "backwards": lambda wave, rng: wave[::-1],
}
#: What is heard when it is compared with the voice's own recordings.
AGAINST_THE_VOICE: dict[str, Plant] = {
    "half of the text": first_half,
    "double speed": at_speed(2.0),
    "half speed": at_speed(0.5),
    "band of 8 kHz": through(16_000),
}
