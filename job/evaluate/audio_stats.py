"""Waveform statistics that distinguish broken speech from good speech. numpy only; mono, samples in [-1, 1]."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.floating[Any]]

#: Window of the silence measures, in seconds: shorter than a phone, longer than a pitch period.
WINDOW_SECONDS = 0.02
#: A window is silent below this RMS: -50 dBFS, under the noise floor of most rooms and above dither.
SILENCE_RMS = 10 ** (-50 / 20)
#: From this magnitude on a sample counts as clipped: the codec clamps its output to 1, and PCM16 rounds close to it.
CLIP_LEVEL = 0.999
#: Sound starts and ends at windows that are not silent and at most this much quieter than the loudest one, dB.
EDGE_DB = 45.0
#: A sample of at least this share of the largest magnitude is at the peak, where speech stays only for a moment.
PEAK_SHARE = 0.98
#: The codec's `chunked_decode` joins its output every this many frames; a fault there is heard as a pop.
CODEC_CHUNK_FRAMES = 300
#: A step between two samples at a joint is a pop if it is this many times the largest step around it.
POP_RATIO = 3.0
#: And at least this large (full scale is 1): smaller steps are not heard.
POP_STEP = 0.02


@dataclass(frozen=True)
class AudioStats:
    """Statistics computed by `measure`.

    Attributes:
        seconds: duration, s.
        rms: root mean square of the finite samples, linear, full scale is 1.
        absmax: largest finite magnitude, linear.
        clipped: share of samples at or above `CLIP_LEVEL`, 0 to 1.
        silence_fraction: share of 20 ms windows that are silent, 0 to 1 (1 for an empty waveform).
        longest_inner_silence: longest run of silent windows between the first and the last loud one, s.
        dc: mean of the finite samples, linear.
        lead: silence before the first sound, s (all of it where there is none).
        trail: silence after the last sound, s (0 where there is none).
        loudness: RMS of the sound in between, without its mean, dBFS (-120 for none).
        flat_tops: share of those samples within 2 % of the largest magnitude, 0 to 1: detects clipped waveforms, even
            if the level was lowered afterwards.
        non_finite: number of samples that are NaN or infinite.
        pops: number of codec joints with an audible step (see `pops_at`).
    """

    seconds: float
    rms: float
    absmax: float
    clipped: float
    silence_fraction: float
    longest_inner_silence: float
    dc: float
    lead: float
    trail: float
    loudness: float
    flat_tops: float
    non_finite: int
    pops: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-serializable."""
        return asdict(self)


def measure(waveform: Waveform, sample_rate: int, samples_per_frame: int | None = None) -> AudioStats:
    """Compute all statistics of one waveform.

    Args:
        waveform: shape (samples,), mono.
        sample_rate: Hz.
        samples_per_frame: samples per codec frame; if given, joints every `CODEC_CHUNK_FRAMES` frames are checked for
            pops.

    Raises:
        ValueError: the waveform is not one-dimensional or the rate is not positive.
    """
    samples = np.asarray(waveform, dtype=np.float64)
    if samples.ndim != 1:
        raise ValueError(f"a mono waveform has one dimension, this one has shape {samples.shape}")
    if sample_rate <= 0:
        raise ValueError(f"sample rate {sample_rate} Hz is not positive")
    finite = np.isfinite(samples)
    clean = np.where(finite, samples, 0.0)
    kept = samples[finite]
    silent = silent_windows(clean, sample_rate)
    mean = float(np.mean(kept)) if kept.size else 0.0
    first, last = sounding(clean - mean, sample_rate)
    sound = clean[first:last] - mean
    chunk = CODEC_CHUNK_FRAMES * (samples_per_frame or 0)
    borders = range(chunk, samples.size, chunk) if chunk else range(0)
    return AudioStats(
        seconds=samples.size / sample_rate,
        rms=rms(kept),
        absmax=float(np.max(np.abs(kept), initial=0.0)),
        clipped=float(np.mean(np.abs(clean) >= CLIP_LEVEL)) if samples.size else 0.0,
        silence_fraction=float(np.mean(silent)) if silent.size else 1.0,
        longest_inner_silence=longest_inner_run(silent) * WINDOW_SECONDS,
        dc=mean,
        lead=first / sample_rate,
        trail=(samples.size - last) / sample_rate,
        loudness=20 * math.log10(max(rms(sound), 1e-6)),
        flat_tops=float(np.mean(np.abs(sound) >= PEAK_SHARE * np.abs(sound).max())) if sound.size else 0.0,
        non_finite=int(np.count_nonzero(~finite)),
        pops=sum(pops_at(clean, border, sample_rate) for border in borders),
    )


def rms(samples: Waveform) -> float:
    """Root mean square, linear; 0 for no samples."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if samples.size else 0.0


def sounding(samples: Waveform, sample_rate: int) -> tuple[int, int]:
    """Return the range of sound: start of its first 20 ms window, and end of its last; twice the end if silent."""
    level = window_rms(samples, sample_rate)
    heard = np.flatnonzero(level >= max(SILENCE_RMS, float(level.max(initial=0.0)) * 10 ** (-EDGE_DB / 20)))
    width = max(1, round(WINDOW_SECONDS * sample_rate))
    if not heard.size:
        return samples.size, samples.size
    return int(heard[0]) * width, min(samples.size, (int(heard[-1]) + 1) * width)


def silent_windows(samples: Waveform, sample_rate: int) -> NDArray[np.bool_]:
    """Return whether each 20 ms window is silent, shape (windows,); a shorter last window counts as one."""
    return np.asarray(window_rms(samples, sample_rate) < SILENCE_RMS)


def window_rms(samples: Waveform, sample_rate: int) -> NDArray[np.float64]:
    """RMS of each 20 ms window, shape (windows,); a shorter last window counts as one."""
    width = max(1, round(WINDOW_SECONDS * sample_rate))
    starts = np.arange(0, samples.size, width)
    if not starts.size:
        return np.zeros(0)
    energy = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    lengths = np.diff(np.append(starts, samples.size))
    return np.asarray(np.sqrt(energy / lengths))


def longest_inner_run(silent: NDArray[np.bool_]) -> int:
    """Find the longest run of True with a False on both sides, in windows: excludes leading and trailing silence."""
    loud = np.flatnonzero(~silent)
    return int(np.max(np.diff(loud) - 1, initial=0))


def pops_at(samples: Waveform, border: int, sample_rate: int) -> bool:
    """Return whether the step from sample `border - 1` to `border` stands out from those within 20 ms of it.

    A continuous waveform's steps are bounded by its own spectrum, so a joint whose step is `POP_RATIO` times the
    largest neighbouring one does not come from the speech.
    """
    if not 0 < border < samples.size:
        return False
    width = max(2, round(WINDOW_SECONDS * sample_rate))
    start = max(0, border - width)
    steps = np.abs(np.diff(samples[start : border + width]))
    joint = border - 1 - start
    step = float(steps[joint])
    around = float(np.max(np.delete(steps, joint), initial=0.0))
    return step >= POP_STEP and step > POP_RATIO * around
