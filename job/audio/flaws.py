"""Measure flaws that level and silence do not show: hum, music, loops, robotic pitch, spectral holes, narrow bandwidth.

The figures depend on the samples alone and cost a few milliseconds per clip. They are judged elsewhere: what is a flaw
in one row may be how a whole source was recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.audio import direction
from job.audio.measure import Samples

Array = NDArray[np.float32]

#: Window and step of the short spectrum, in samples at 24 kHz (43 ms, 20 ms).
WINDOW, STEP = 1024, 480
#: Window and step of the long spectrum, in which steady spectral lines stand out (0.34 s, bins 3 Hz apart).
LONG, LONG_STEP = 8192, 2048
#: A spectral line is steady if its power exceeds the median of the bins around it by this factor; bins in that median;
#: percentile over time at which powers are compared.
STANDS_OUT, AROUND, PERCENTILE = 10.0, 17, 20.0
#: Mains frequencies, Hz, and how many of their harmonics are checked.
MAINS, HARMONICS = (50.0, 60.0), 8
#: Highest frequency searched for steady lines, Hz.
LINES_TO = 5000.0
#: The bandwidth ends where the mean spectrum is this far below its maximum, dB.
BAND_DB = 75.0
#: Narrowest bandwidth in which the direction of time can be told, Hz.
WIDE = 6500.0
#: Frames this far below the loud ones (95th percentile) are pauses, dB.
PAUSE_DB = 25.0
#: Band in which speech has no spectral holes, Hz.
VOICE_BAND = (300.0, 3400.0)
#: Shortest lag searched for repetitions, seconds; the longest is half the recording.
SHORTEST_LOOP = 0.04
#: Band edges (Hz) and time points of the fingerprint that identifies a recording.
PRINT_BANDS, PRINT_POINTS = (100.0, 500.0, 1200.0, 2500.0, 6000.0), 32
PRINT_SIZE = PRINT_POINTS * (len(PRINT_BANDS) - 1)
#: Dynamic range of the fingerprint below its loudest level, dB.
PRINT_DB = 40.0
#: Pitch: downsampling factor (24 kHz to 8 kHz), window and step after it, range of lags searched (400 to 60 Hz).
DOWN, PITCH_WINDOW, PITCH_STEP, LAGS = 3, 640, 160, (20, 133)
#: Least peak of the normalized autocorrelation of a voiced frame; fewest voiced frames needed for a result.
VOICED, FEWEST_VOICED = 0.75, 15
#: How many of the first and of the last samples (20 ms) are compared with the loud parts.
END = 480
#: Reported where there are no steady lines, dB.
NONE = -99.0
#: Shortest recording that is measured, and shortest that is searched for steady lines, in seconds: in a shorter one a
#: single vowel may last throughout.
SHORTEST, SHORTEST_LINES = 0.5, 1.5


@dataclass(frozen=True, slots=True)
class Flaws:
    """Figures of one recording; NaN where it is too short to tell.

    Attributes:
        hum: share of the power in steady lines at harmonics of 50 or 60 Hz, dB.
        steady: share of the power in other steady lines (music, a whistle), dB.
        band: frequency up to which there is sound, Hz.
        repetition: highest autocorrelation of the spectral envelope at any lag; 1 for a loop.
        flatness: spectral flatness of the loud frames in the voice band, dB; deep holes make it low.
        monotony: semitones from the median pitch within which three quarters of the voiced frames lie.
        onset, ending: level of the first and the last 20 ms relative to the loud parts, dB.
        asymmetry: skewness of the envelope's slope (`job.audio.direction`); below 0 for reversed speech. NaN for narrow
            bands: the filter that made them rings.
        print: fingerprint of `PRINT_SIZE` numbers that are similar in copies of the same recording.
    """

    hum: float
    steady: float
    band: float
    repetition: float
    flatness: float
    monotony: float
    onset: float
    ending: float
    asymmetry: float
    print: NDArray[np.int8]

    def figures(self) -> dict[str, float]:
        """All figures by name, without the fingerprint."""
        return {name: getattr(self, name) for name in NAMES}


NAMES = ("hum", "steady", "band", "repetition", "flatness", "monotony", "onset", "ending", "asymmetry")


def find(samples: Samples, rate: int) -> Flaws:
    """Measure the flaws of mono samples (n,) at the codec's `rate` (24 kHz)."""
    sound = samples - samples.mean(dtype=np.float64).astype(np.float32)
    if len(sound) < SHORTEST * rate:
        unknown: dict[str, Any] = dict.fromkeys(NAMES, float("nan"))
        return Flaws(**unknown, print=np.zeros(PRINT_SIZE, np.int8))
    power = _power(sound, WINDOW, STEP)
    frequencies: NDArray[np.float64] = np.fft.rfftfreq(WINDOW, 1 / rate).astype(np.float64)
    levels = _decibels(power.sum(axis=1))
    loud = levels > np.percentile(levels, 95) - PAUSE_DB
    hum, steady = _lines(sound, rate)
    band = bandwidth(power.mean(axis=0), frequencies)
    onset, ending = _ends(sound)
    return Flaws(
        hum=hum,
        steady=steady,
        band=band,
        repetition=_repetition(power, frequencies, rate),
        flatness=_flatness(power[loud], frequencies),
        monotony=_monotony(sound),
        onset=onset,
        ending=ending,
        asymmetry=direction.asymmetry(sound, rate) if band >= WIDE else float("nan"),
        print=_print(power, frequencies),
    )


def _power(sound: Samples, window: int, step: int) -> Array:
    """Power spectrum (frames, bins)."""
    from scipy.fft import rfft

    if len(sound) < window:
        sound = np.pad(sound, (0, window - len(sound)))
    frames = np.lib.stride_tricks.sliding_window_view(sound, window)[::step]
    spectrum = rfft(frames * np.hanning(window).astype(np.float32), axis=1)
    return np.asarray(spectrum.real**2 + spectrum.imag**2, dtype=np.float32)


def _decibels(power: Any) -> Any:
    return 10 * np.log10(np.asarray(power, dtype=np.float64) + 1e-20)


def _lines(sound: Samples, rate: int) -> tuple[float, float]:
    """Shares of the power (dB) in steady lines at mains harmonics, and in all other steady lines."""
    from scipy.ndimage import median_filter

    if len(sound) < SHORTEST_LINES * rate:
        return float("nan"), float("nan")
    power = _power(sound, LONG, LONG_STEP)
    total = float(power.mean(axis=0, dtype=np.float64).sum())
    step = rate / LONG
    low = np.percentile(power[:, : int(LINES_TO / step)], PERCENTILE, axis=0)
    stands_out = np.where(low > STANDS_OUT * median_filter(low, AROUND, mode="nearest"), low, 0.0)
    found, mains = 0.0, np.zeros(len(low), bool)
    for hertz in MAINS:
        places = np.round(hertz * np.arange(1, HARMONICS + 1) / step).astype(int)
        near = np.zeros(len(low), bool)
        for place in places:
            near[place - 1 : place + 2] = True
        share = float(stands_out[near].sum()) if stands_out[places[0] - 1 : places[1] + 2].any() else 0.0
        if share > found:
            found, mains = share, near
    others = float(stands_out[~mains].sum())
    shares = [float(_decibels(one / total)) if one > 0 and total > 0 else NONE for one in (found, others)]
    return max(NONE, shares[0]), max(NONE, shares[1])


def bandwidth(power: NDArray[Any], frequencies: NDArray[np.float64]) -> float:
    """Highest frequency (Hz) with sound in a mean power spectrum (bins,)."""
    smooth = np.convolve(_decibels(power), np.ones(5) / 5, "valid")
    return float(frequencies[2:-2][np.flatnonzero(smooth > smooth.max() - BAND_DB)[-1]])


def _bands(power: Array, frequencies: NDArray[np.float64], edges: Any, floor: float) -> NDArray[np.float64]:
    """Levels (frames, bands) in dB, limited to at most `floor` below the loudest."""
    places = np.searchsorted(frequencies, edges)
    levels = _decibels(np.add.reduceat(power, places, axis=1)[:, :-1])
    return np.asarray(np.maximum(levels, levels.max() - floor))


def _repetition(power: Array, frequencies: NDArray[np.float64], rate: int) -> float:
    bands = _bands(power, frequencies, np.geomspace(100, 8000, 17), 50.0)
    first, last = max(1, round(SHORTEST_LOOP * rate / STEP)), len(bands) // 2
    return highest_correlation(bands, first, last) if last > first else float("nan")


def highest_correlation(bands: NDArray[np.float64], first: int, last: int) -> float:
    """Highest correlation (-1 to 1) of levels (frames, bands) with themselves, `first` to `last` - 1 frames later."""
    from scipy.fft import irfft, next_fast_len, rfft

    frames = len(bands)
    centred = bands - bands.mean(axis=0)
    size = next_fast_len(2 * frames)
    spectrum = rfft(centred, size, axis=0)
    products = irfft((spectrum.real**2 + spectrum.imag**2).sum(axis=1), size)[:frames]
    energy = np.concatenate([[0.0], np.cumsum((centred**2).sum(axis=1))])
    lags = np.arange(first, last)
    norms = np.sqrt((energy[-1] - energy[lags]) * energy[frames - lags])
    return float(np.max(products[lags] / np.maximum(norms, 1e-9)))


def _flatness(loud: Array, frequencies: NDArray[np.float64]) -> float:
    low, high = np.searchsorted(frequencies, VOICE_BAND)
    band = loud[:, low:high].astype(np.float64)
    band = band + 1e-9 * band.max(axis=1, keepdims=True) + 1e-20
    return float(np.median(_decibels(np.exp(np.log(band).mean(axis=1)) / band.mean(axis=1))))


def _monotony(sound: Samples) -> float:
    from scipy.fft import irfft, rfft

    low = sound[: len(sound) // DOWN * DOWN].reshape(-1, DOWN).mean(axis=1)
    if len(low) < PITCH_WINDOW:
        return float("nan")
    frames = np.lib.stride_tricks.sliding_window_view(low, PITCH_WINDOW)[::PITCH_STEP]
    window = np.hanning(PITCH_WINDOW).astype(np.float32)
    size = 2 * PITCH_WINDOW
    products, unity = (
        np.asarray(irfft(np.abs(rfft(one, size, axis=-1)) ** 2, axis=-1)) for one in (frames * window, window)
    )
    energy = products[:, :1]
    first, last = LAGS
    periodic = products[:, : last + 1] / np.maximum(energy, 1e-12) / (unity[: last + 1] / unity[0])
    inner = periodic[:, first:last]
    peaks = (inner > periodic[:, first - 1 : last - 1]) & (inner >= periodic[:, first + 1 : last + 1])
    peaks &= inner >= np.maximum(VOICED, 0.92 * inner.max(axis=1, keepdims=True))
    voiced = peaks.any(axis=1) & (energy[:, 0] > energy.max() * 10 ** (-PAUSE_DB / 10))
    if np.count_nonzero(voiced) < FEWEST_VOICED:
        return float("nan")
    at = np.argmax(peaks[voiced], axis=1) + first
    before, here, after = (periodic[voiced][np.arange(len(at)), at + step] for step in (-1, 0, 1))
    semitones = 12 * np.log2(at + 0.5 * (before - after) / np.minimum(before - 2 * here + after, -1e-9))
    return float(np.percentile(np.abs(semitones - np.median(semitones)), 75))


def _ends(sound: Samples) -> tuple[float, float]:
    levels = _decibels((sound[: len(sound) // END * END].reshape(-1, END).astype(np.float64) ** 2).mean(axis=1))
    last = float(_decibels(np.mean(sound[-END:].astype(np.float64) ** 2)))
    loud = float(np.percentile(levels, 95))
    return float(levels[0]) - loud, last - loud


def _print(power: Array, frequencies: NDArray[np.float64]) -> NDArray[np.int8]:
    """Fingerprint: band envelopes resampled to a fixed length, alike for copies at other levels, rates and codecs."""
    levels = _bands(power, frequencies, np.array(PRINT_BANDS), PRINT_DB)
    loudest = np.convolve(levels.max(axis=1), np.ones(3) / 3, "same")
    heard = np.flatnonzero(loudest > levels.max() - PRINT_DB + 15)
    levels = levels[heard[0] : heard[-1] + 1] if len(heard) else levels
    sums = np.concatenate([np.zeros((1, levels.shape[1])), np.cumsum(levels, axis=0)])
    edges = np.linspace(0, len(levels), PRINT_POINTS + 1)
    at_edges = np.stack([np.interp(edges, np.arange(len(sums)), band) for band in sums.T])
    points = np.diff(at_edges, axis=1)
    points = points - points.mean(axis=1, keepdims=True)
    points = points / max(float(points.std()), 1e-9)
    return np.asarray(np.clip(np.round(30 * points), -127, 127), dtype=np.int8).reshape(-1)
