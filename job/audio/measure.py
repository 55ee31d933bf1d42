"""Measure a recording: levels, clipping, silence at its ends, and whether its text is plausible for its length."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Mono samples (n,); full scale is 1.
Samples = NDArray[np.float32]

#: Below this level (dBFS, mean removed) a recording counts as silent; a quiet room is around -60.
SILENT_DBFS = -60.0
#: Reported instead of minus infinity for digital silence.
FLOOR_DBFS = -120.0
#: Samples at or above this magnitude count as clipped (16-bit full scale is 0.99997).
CLIPPED_AT = 0.999
#: Share of clipped samples from which a recording is reported.
CLIPPED_SHARE = 0.001
#: Recordings made at a lower rate lack the upper half of speech's spectrum.
LOW_RATE = 16_000
#: Mean of the samples (full scale is 1) from which a DC offset is reported.
DC_OFFSET = 0.02
#: Seconds of silence at either end from which it is reported: the model would learn to wait.
LONG_SILENCE = 1.0
#: Characters per second outside this range mean that text and audio cannot belong together, in any script: fast speech
#: in Latin script reaches about 25, slow speech in a syllabic script stays above 1.
CHARACTERS_PER_SECOND = (0.4, 45.0)
#: A mixdown this much softer (dB) than its loudest channel has cancelled itself: the channels are in opposite phase.
PHASE_LOSS_DB = 20.0

#: Samples at or above this share of the largest magnitude are at the peak, where speech stays only for a moment.
PEAK_SHARE = 0.98
#: A dropout is a run of equal samples (shortest and longest, seconds) with sound on both sides of it: so many seconds
#: there are at most this much (dB) softer than the recording as a whole.
DROPOUT, BESIDE, BESIDE_DB = (0.002, 0.15), 0.005, 20.0

_FRAME_SECONDS = 0.025


@dataclass(frozen=True, slots=True)
class Figures:
    """Measurements of one recording: levels in dBFS, times in seconds, `rate` in Hz before resampling.

    `flat_tops` is the share of samples at the peak, at whatever level: high for a waveform that was clipped and perhaps
    attenuated afterwards. `dropouts` is the number of dropouts per second.
    """

    seconds: float
    rate: int
    channels: int
    rms: float
    peak: float
    clipped: float
    snr: float
    dc: float
    lead: float
    trail: float
    over_full_scale: bool = False
    header_mended: bool = False
    tracks: int = 1
    flat_tops: float = 0.0
    dropouts: float = 0.0

    def warnings(self) -> list[str]:
        """Categories of problems that are not bad enough to reject the recording."""
        found = {
            "clipped": self.clipped > CLIPPED_SHARE,
            "low_sample_rate": self.rate < LOW_RATE,
            "dc_offset": abs(self.dc) > DC_OFFSET,
            "long_silence": max(self.lead, self.trail) > LONG_SILENCE,
            "over_full_scale": self.over_full_scale,
            "header_mended": self.header_mended,
            "several_tracks": self.tracks > 1,
        }
        return [name for name, is_so in found.items() if is_so]


def mix(frames: NDArray[np.float32]) -> Samples:
    """Mix (samples, channels) down to (samples,): the mean, or the loudest channel if the mean cancels itself out."""
    if frames.shape[1] == 1:
        return np.ascontiguousarray(frames[:, 0])
    mono: Samples = frames.mean(axis=1, dtype=np.float32)
    levels = [_rms(frames[:, channel]) for channel in range(frames.shape[1])]
    loudest = int(np.argmax(levels))
    if decibels(_rms(mono)) < decibels(levels[loudest]) - PHASE_LOSS_DB:
        return np.ascontiguousarray(frames[:, loudest])
    return mono


def text_mismatch(text: str, seconds: float) -> bool:
    """Whether the text is far too long or too short for the audio to be its transcript, in any language.

    Short clips never count as having too little text: a single word may be drawn out.
    """
    characters = sum(not c.isspace() for c in text)
    low, high = CHARACTERS_PER_SECOND
    per_second = characters / max(seconds, 1e-3)
    return (per_second > high and characters > 5) or (per_second < low and seconds > 4.0)


def decibels(amplitude: float) -> float:
    """Amplitude (full scale is 1) in dBFS, not below `FLOOR_DBFS`."""
    return max(FLOOR_DBFS, 20.0 * math.log10(amplitude)) if amplitude > 0 else FLOOR_DBFS


def _rms(samples: NDArray[np.float32]) -> float:
    """Root mean square around the mean, in double precision: a constant is silence, whatever its value."""
    return float(np.std(samples, dtype=np.float64))


def measure(
    mono: Samples,
    rate: int,
    channels: int,
    *,
    over_full_scale: bool = False,
    header_mended: bool = False,
    tracks: int = 1,
) -> Figures:
    """Measure a mono recording at its own sample rate, before resampling changes its peaks."""
    centred = mono - mono.mean(dtype=np.float64).astype(np.float32)
    levels = _frame_levels(centred, rate)
    magnitudes = np.abs(mono)
    rms = decibels(_rms(mono))
    heard = np.flatnonzero(levels > max(SILENT_DBFS, rms - 30.0))
    step = min(_FRAME_SECONDS, len(mono) / rate)
    return Figures(
        seconds=len(mono) / rate,
        rate=rate,
        channels=channels,
        rms=rms,
        peak=decibels(float(magnitudes.max())),
        clipped=float((magnitudes >= CLIPPED_AT).mean()),
        snr=_speech_to_noise(levels),
        dc=float(mono.mean(dtype=np.float64)),
        lead=float(heard[0] * step) if len(heard) else len(mono) / rate,
        trail=float((len(levels) - 1 - heard[-1]) * step) if len(heard) else len(mono) / rate,
        over_full_scale=over_full_scale,
        header_mended=header_mended,
        tracks=tracks,
        flat_tops=_flat_tops(centred),
        dropouts=_dropouts(centred, rate),
    )


def _flat_tops(centred: Samples) -> float:
    magnitudes = np.abs(centred)
    peak = float(magnitudes.max())
    return float((magnitudes >= PEAK_SHARE * peak).mean()) if peak > 0 else 0.0


def _dropouts(centred: Samples, rate: int) -> float:
    """Number of dropouts per second."""
    stays = np.concatenate([[False], centred[1:] == centred[:-1], [False]])
    changes = np.flatnonzero(stays[1:] != stays[:-1])
    starts, ends = changes[::2], changes[1::2]
    long = (ends - starts >= DROPOUT[0] * rate) & (ends - starts <= DROPOUT[1] * rate)
    beside = max(1, round(BESIDE * rate))
    least = float(np.mean(np.square(centred, dtype=np.float64))) * 10 ** (-BESIDE_DB / 10)
    count = 0
    for start, end in zip(starts[long], ends[long], strict=True):
        sides = centred[max(0, start - beside) : start], centred[end + 1 : end + 1 + beside]
        count += all(len(side) and float(np.mean(np.square(side, dtype=np.float64))) > least for side in sides)
    return count / (len(centred) / rate)


def _frame_levels(samples: Samples, rate: int) -> NDArray[np.float64]:
    """Level (dBFS) of each 25 ms frame, shape (frames,); the remainder at the end is dropped."""
    length = min(len(samples), max(1, round(_FRAME_SECONDS * rate)))
    frames = samples[: len(samples) // length * length].reshape(-1, length).astype(np.float64)
    power = np.maximum((frames**2).mean(axis=1), 10 ** (FLOOR_DBFS / 10))
    return np.asarray(10.0 * np.log10(power))


def _speech_to_noise(levels: NDArray[np.float64]) -> float:
    """Estimated speech-to-noise ratio in dB: loud frames (90th percentile) over quiet ones (10th).

    Frames of digital silence are padding, not the room's noise, and are ignored.
    """
    sounding = levels[levels > FLOOR_DBFS + 1e-6]
    if len(sounding) == 0:
        return 0.0
    quiet, loud = np.percentile(sounding, [10, 90])
    return float(loud - quiet)
