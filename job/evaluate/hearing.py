"""Signal features that distinguish speech from noise, hum, loops, robotic and reversed speech, without a model.

Thresholds are in `job.evaluate.checks`. Frames are 43 ms long, one every 10 ms.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.audio import direction, flaws
from job.evaluate.audio_stats import Waveform, sounding

Array = NDArray[np.float64]

#: Frame length, s, and frames per second.
FRAME_SECONDS, FRAMES_A_SECOND = 1024 / 24_000, 100
#: Only the first LONGEST seconds of a sound are analysed; sounds shorter than SHORTEST seconds are not judged.
LONGEST, SHORTEST = 30.0, 0.2
#: Frames this much quieter than the loud ones (95th percentile) are pauses, dB.
PAUSE_DB = 25.0
#: Band in which flatness is measured, Hz: the band of speech.
SPEECH_BAND = (100.0, 8000.0)
#: Number of spectral lines that make a hum, and the window they are measured in, s (2 Hz resolution).
LINES, LINE_SECONDS = 10, 0.5
#: Band of the treble, Hz: what recordings at 16 kHz and less lack.
TREBLE = (8250.0, 11_000.0)
#: Number of mel bands, and their dynamic range below the loudest, dB.
MELS, MEL_RANGE_DB = 32, 50.0
#: Change of the mel bands is measured over this time, s, after a low-pass at this frequency, Hz: speech modulates at 2
#: to 8 Hz.
MODULATION_SECONDS, MODULATION_HZ = 0.08, 8.0
#: Repetitions are searched at lags from this one, s, to half the sound.
SHORTEST_LOOP = 0.04
#: Pitch search range, Hz, and window length, s.
PITCH, PITCH_SECONDS = (60.0, 500.0), 0.085
#: A frame is voiced if its autocorrelation at the pitch is at least VOICED and it is at most VOICED_DB quieter than the
#: loudest one; the pitch of fewer than FEWEST_VOICED frames is meaningless.
VOICED, VOICED_DB, FEWEST_VOICED = 0.8, 25.0, 10
#: The autocorrelation must first fall below FALLEN; then the first lag within a factor NEARLY of the best is the pitch.
FALLEN, NEARLY = 0.5, 0.92


@dataclass(frozen=True)
class Heard:
    """Features found by `listen`; None where there is too little sound to measure.

    Attributes:
        flatness: spectral flatness (geometric over arithmetic mean of the power spectrum) of the least flat quarter of
            the frames, 0 to 1; white noise has 0.55, pink noise 0.3, speech under 0.01.
        lines: share of the energy in the ten strongest lines of the spectrum, 0 to 1; a hum has 1.
        bandwidth: highest frequency with sound, Hz.
        brightest: share of the treble in the energy of its bright frames (90th percentile), dB; also of a word without
            any high consonant, as vowels have some.
        dullest: the same of its dull frames (10th percentile).
        modulation: how much the mel bands change within 80 ms, dB; steady noise has 1.5, a hum 0.5, speech 7 to 14.
        repetition: highest correlation of the mel bands with themselves at a later time, -1 to 1; a loop has 1.
        asymmetry: skewness of the envelope's slope. It is positive in recordings, because each glottal pulse starts
            abruptly and decays; reversed speech has a negative one.
        pitch_spread: semitones from the median pitch within which three quarters of the pitch values lie.
        median_pitch: Hz.
    """

    flatness: float | None = None
    lines: float | None = None
    bandwidth: float | None = None
    brightest: float | None = None
    dullest: float | None = None
    modulation: float | None = None
    repetition: float | None = None
    asymmetry: float | None = None
    pitch_spread: float | None = None
    median_pitch: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-serializable."""
        return asdict(self)


def listen(waveform: Waveform, sample_rate: int) -> Heard:
    """Compute all features of a mono waveform (samples,) in [-1, 1]; non-finite samples count as 0."""
    from scipy.signal import welch

    samples = np.nan_to_num(np.asarray(waveform, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    samples = samples - samples.mean() if samples.size else samples
    first, last = sounding(samples, sample_rate)
    sound = samples[first : min(last, first + round(LONGEST * sample_rate))]
    if sound.size < SHORTEST * sample_rate:
        return Heard()
    power, frequencies = _spectra(sound, sample_rate)
    _, fine = welch(sound, sample_rate, nperseg=min(sound.size, round(LINE_SECONDS * sample_rate)))
    mels = _mels(power, sample_rate)
    treble = _treble(power, frequencies)
    hertz = pitches(sound, sample_rate)
    return Heard(
        flatness=_flatness(power, frequencies),
        lines=float(np.sort(fine)[-LINES:].sum() / fine.sum()),
        bandwidth=flaws.bandwidth(power.mean(axis=1), frequencies),
        brightest=float(np.percentile(treble, 90)),
        dullest=float(np.percentile(treble, 10)),
        modulation=_modulation(mels),
        repetition=_repetition(mels),
        asymmetry=direction.asymmetry(sound, sample_rate),
        pitch_spread=_pitch_spread(hertz),
        median_pitch=None if hertz is None else float(np.median(hertz)),
    )


def mel_bands(sound: Array, sample_rate: int) -> Array:
    """Compute the mel bands of a sound (samples,) of a frame at least, in dB: (bands, frames), 100 frames a second."""
    return _mels(_spectra(sound, sample_rate)[0], sample_rate)


def _spectra(sound: Array, sample_rate: int) -> tuple[Array, Array]:
    """Compute power spectra (frequencies, frames), of frames that lie within the sound, and the frequencies in Hz."""
    from scipy.signal import ShortTimeFFT

    window = np.hanning(round(FRAME_SECONDS * sample_rate))
    stft = ShortTimeFFT(window, round(sample_rate / FRAMES_A_SECOND), sample_rate)
    within = stft.stft(sound, p0=stft.lower_border_end[1], p1=stft.upper_border_begin(sound.size)[1])
    return np.abs(within) ** 2, stft.f


def _flatness(power: Array, frequencies: Array) -> float:
    """Return the 25th percentile over frames that are not pauses: all frames of noise are flat, few of speech are."""
    low, high = SPEECH_BAND
    band = power[(frequencies >= low) & (frequencies <= high)][:, _loud(power)] + 1e-12 * power.max()
    return float(np.percentile(np.exp(np.log(band).mean(axis=0)) / band.mean(axis=0), 25))


def _loud(power: Array) -> NDArray[np.bool_]:
    """Return which frames are not pauses."""
    level = 10 * np.log10(power.sum(axis=0) + 1e-20)
    return np.asarray(level > np.percentile(level, 95) - PAUSE_DB)


def _treble(power: Array, frequencies: Array) -> Array:
    """Return the share of the treble in each frame that is not a pause, dB."""
    low, high = TREBLE
    loud = power[:, _loud(power)]
    band = loud[(frequencies >= low) & (frequencies <= high)].sum(axis=0)
    return np.asarray(10 * np.log10(band / np.maximum(loud.sum(axis=0), 1e-30) + 1e-14))


def _mels(power: Array, sample_rate: int) -> Array:
    """Compute mel bands in dB, (bands, frames), clamped to a floor below the loudest."""
    from librosa.filters import mel

    low, high = SPEECH_BAND
    high = min(high, sample_rate / 2)
    window = 2 * (power.shape[0] - 1)
    filters = mel(sr=sample_rate, n_fft=window, n_mels=MELS, fmin=low, fmax=high)
    bands = filters @ power
    return np.asarray(10 * np.log10(bands + 10 ** (-MEL_RANGE_DB / 10) * bands.max()), dtype=np.float64)


def _modulation(mels: Array) -> float | None:
    from scipy.signal import butter, sosfiltfilt

    lag = round(MODULATION_SECONDS * FRAMES_A_SECOND)
    slow = butter(2, MODULATION_HZ, fs=FRAMES_A_SECOND, output="sos")
    if mels.shape[1] <= 2 * lag:
        return None
    smooth = sosfiltfilt(slow, mels, axis=1, padlen=min(9, mels.shape[1] - 1))
    return float(np.sqrt(np.mean((smooth[:, lag:] - smooth[:, :-lag]) ** 2)))


def _repetition(mels: Array) -> float | None:
    shortest, longest = round(SHORTEST_LOOP * FRAMES_A_SECOND), mels.shape[1] // 2
    return flaws.highest_correlation(mels.T, shortest, longest) if longest > shortest else None


def _pitch_spread(hertz: Array | None) -> float | None:
    """Measure the pitch spread of voiced frames, as a percentile: a deviation would suffer from octave errors."""
    if hertz is None:
        return None
    semitones = 12 * np.log2(hertz)
    return float(np.percentile(np.abs(semitones - np.median(semitones)), 75))


def pitches(sound: Array, sample_rate: int) -> Array | None:
    """Estimate the pitch of the voiced frames of a sound (samples,), Hz; None if there are too few.

    The period is the shortest lag at which the autocorrelation, divided by the window's, rises again to nearly its
    maximum (Boersma, 1993). librosa's `yin` reports a high voice for smooth sounds in unvoiced frames.
    """
    from scipy.fft import irfft, next_fast_len, rfft

    length, hop = round(PITCH_SECONDS * sample_rate), round(sample_rate / FRAMES_A_SECOND)
    if sound.size < length:
        return None
    frames = np.lib.stride_tricks.sliding_window_view(sound, length)[::hop]
    window, size = np.hanning(length), next_fast_len(2 * length)
    products = irfft(np.abs(rfft(frames * window, size, axis=1)) ** 2, axis=1)
    unity = irfft(np.abs(rfft(window, size)) ** 2)
    energy = products[:, :1]
    shortest, longest = round(sample_rate / PITCH[1]), round(sample_rate / PITCH[0])
    periodic = products[:, :longest] / np.maximum(energy, 1e-20) / (unity[:longest] / unity[0])
    fallen = np.minimum.accumulate(periodic, axis=1) < FALLEN
    periodic[:, :shortest] = -1.0
    periodic[~fallen] = -1.0
    inner = periodic[:, 1:-1]
    peaks = (inner > periodic[:, :-2]) & (inner >= periodic[:, 2:])
    peaks &= inner >= np.maximum(VOICED, NEARLY * periodic.max(axis=1, keepdims=True))
    voiced = peaks.any(axis=1) & (energy[:, 0] > energy.max() * 10 ** (-VOICED_DB / 10))
    if np.count_nonzero(voiced) < FEWEST_VOICED:
        return None
    at = np.argmax(peaks[voiced], axis=1) + 1
    before, here, after = (periodic[voiced][np.arange(at.size), at + step] for step in (-1, 0, 1))
    lags = at + 0.5 * (before - after) / (before - 2 * here + after)
    return np.asarray(sample_rate / lags)
