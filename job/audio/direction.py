"""Tell speech that runs backwards: each pulse of the vocal cords begins abruptly and decays, reversed ones swell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: (lower edge, upper edge, cutoff of the envelope) in Hz: bands that show the decay after each pulse.
PULSE_BANDS = ((1000.0, 4000.0, 400.0), (1500.0, 6000.0, 600.0))
#: Orders of the Butterworth filters, which are applied forwards and backwards.
_BAND_ORDER, _ENVELOPE_ORDER = 3, 2


def asymmetry(sound: NDArray[Any], rate: int) -> float:
    """Skewness of the envelope's slope: 0.3 to 5 in recordings of people, the same with a minus when reversed.

    Voices that add up sines (some synthesizers) have 0 in both directions.

    Args:
        sound: mono samples (n,).
        rate: their sample rate, Hz.
    """
    from scipy.fft import next_fast_len, rfft

    spectrum = rfft(np.asarray(sound, dtype=np.float32), next_fast_len(len(sound), real=True))
    return float(np.mean([_of_band(spectrum, rate, len(sound), *band) for band in PULSE_BANDS]))


def _of_band(spectrum: NDArray[Any], rate: int, samples: int, low: float, high: float, fastest: float) -> float:
    """The asymmetry in one band: filtered, demodulated and decimated in the frequency domain, a fifth of the work."""
    from scipy.fft import ifft, irfft, next_fast_len, rfft

    step = np.float32(rate / next_fast_len(samples, real=True))
    high = min(high, 0.475 * rate)
    first, last = max(1, int(low / 2 / step)), min(len(spectrum), int(1.3 * high / step))
    hertz = np.arange(first, last, dtype=np.float32) * step
    detuned = (hertz - np.float32(low * high) / hertz) / np.float32(high - low)
    band = spectrum[first:last] * _low_pass(detuned, _BAND_ORDER)
    points = next_fast_len(2 * len(band))
    envelope = rfft(np.abs(ifft(band, points)))
    envelope *= _low_pass(np.arange(len(envelope), dtype=np.float32) * (step / np.float32(fastest)), _ENVELOPE_ORDER)
    slope = np.diff(irfft(envelope, points))
    slope = (slope - slope.mean()).astype(np.float64)
    square = slope * slope
    return float(np.mean(square * slope) / max(float(np.mean(square)) ** 1.5, 1e-30))


def _low_pass(frequency: NDArray[Any], order: int) -> NDArray[Any]:
    """Gain of a Butterworth low-pass that is applied forwards and backwards, at multiples of its cutoff frequency."""
    square = frequency * frequency
    power = np.ones_like(square)
    for _ in range(order):  # `**` takes ten times as long
        power *= square
    return np.asarray(1 / (1 + power))
