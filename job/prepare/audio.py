"""Recordings: decoding any rate and channel count to mono at the codec's rate, and measuring what is in them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from job import audio_files
from job.prepare.resampling import resampling

#: Mono samples (n,), full scale is 1.
Samples = NDArray[np.float32]

#: Below this level (dBFS, mean removed) a recording counts as silent; a quiet room is around -60.
SILENT_DBFS = -60.0
#: Reported instead of minus infinity for digital silence.
FLOOR_DBFS = -120.0
#: Samples at or over this magnitude count as clipped (16-bit full scale is 0.99997).
CLIPPED_AT = 0.999
#: Share of clipped samples from which a recording is reported.
CLIPPED_SHARE = 0.001
#: Recordings made at a lower rate lack the upper half of speech's spectrum.
LOW_RATE = 16_000
#: Mean of the samples (full scale is 1) from which a DC offset is reported.
DC_OFFSET = 0.02
#: Seconds of silence at either end from which it is reported: the model would learn to wait.
LONG_SILENCE = 1.0
#: Characters a second outside of which text and audio cannot belong together, in any script: fast Latin-script speech
#: reaches about 25, slow speech in a syllabic script stays above 1.
CHARACTERS_PER_SECOND = (0.4, 45.0)
#: A mixdown this much softer (dB) than its loudest channel has cancelled itself: the channels are in opposite phase.
PHASE_LOSS_DB = 20.0

#: Share of the sound that a WAV or AIFF header promises that must be there. Some programs are wrong by some bytes.
WHOLE = 0.99

_FRAME_SECONDS = 0.025
#: libsndfile's note that a sound chunk ends before its header says it does.
_CUT_OFF = re.compile(r"^ *(?:data|SSND) : (\d+) \(should be (\d+)\)", re.MULTILINE)
#: Sizes from which a header says that its writer did not know: programs that write to a pipe put the largest number.
_UNKNOWN_SIZE = 0x7FFF0000


class Unusable(Exception):
    """A recording that cannot be used. `reason` is a short category, `detail` one line for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Figures:
    """Measurements of one recording: levels in dBFS, times in seconds, `rate` in Hz before resampling."""

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

    def warnings(self) -> list[str]:
        """Short categories of what is wrong but not wrong enough to leave the recording out."""
        found = {
            "clipped": self.clipped > CLIPPED_SHARE,
            "low_sample_rate": self.rate < LOW_RATE,
            "dc_offset": abs(self.dc) > DC_OFFSET,
            "long_silence": max(self.lead, self.trail) > LONG_SILENCE,
            "over_full_scale": self.over_full_scale,
        }
        return [name for name, is_so in found.items() if is_so]


@dataclass(frozen=True, slots=True)
class Clip:
    """One decoded recording: float32 mono `samples` in [-1, 1] at `rate` Hz, and its figures."""

    samples: Samples = field(repr=False)
    rate: int
    figures: Figures


def load(path: Path, rate: int, *, min_seconds: float = 0.0, max_seconds: float = math.inf) -> Clip:
    """Decode, check, mix to mono and resample one recording.

    At most `max_seconds` (and one more) are ever read, so a day-long file costs no memory.

    Raises:
        Unusable: `unreadable`, `cut_off`, `empty`, `not_finite`, `too_short`, `too_long` or `silent`.
    """
    frames, source_rate = _decode(path, max_seconds)
    if len(frames) == 0:
        raise Unusable("empty", f"{path}: no samples in it")
    seconds = len(frames) / source_rate
    if seconds > max_seconds:
        raise Unusable("too_long", f"{path}: longer than MAX_SECONDS={max_seconds:g}")
    if seconds < min_seconds:
        raise Unusable("too_short", f"{path}: {seconds:.2f} s, shorter than MIN_SECONDS={min_seconds:g}")
    if not np.isfinite(frames).all():
        raise Unusable("not_finite", f"{path}: NaN or infinite samples; export it again")
    mono = _mix(frames)
    loudest = float(np.abs(mono).max())
    if loudest > 1.0:  # float files may hold more than full scale; scaling is harmless where clipping is not
        mono = mono / np.float32(loudest)
    figures = _measure(mono, source_rate, frames.shape[1], over_full_scale=loudest > 1.0)
    if figures.rms < SILENT_DBFS:
        raise Unusable("silent", f"{path}: silent ({figures.rms:.0f} dBFS)")
    return Clip(samples=resample(mono, source_rate, rate), rate=rate, figures=figures)


def resample(samples: Samples, source: int, target: int) -> Samples:
    """Samples (n,) at `source` Hz -> about (n * target / source,) at `target` Hz, limited to [-1, 1].

    soxr's VHQ filter rings by a little at full scale, hence the limit.
    """
    if source == target:
        return samples
    with resampling():
        converted = soxr.resample(samples, source, target, quality="VHQ").astype(np.float32, copy=False)
    limited: Samples = np.clip(converted, -1.0, 1.0)
    return limited


def pad_to_frames(samples: Samples, samples_per_frame: int) -> Samples:
    """Zero-pad (n,) to a whole number of codec frames, at least one.

    The codec gives a partial last frame other codes alone than beside a longer clip of a batch; for whole frames the
    codes do not depend on the batch.
    """
    frames = max(1, -(-len(samples) // samples_per_frame))
    return np.pad(samples, (0, frames * samples_per_frame - len(samples)))


def text_mismatch(text: str, seconds: float) -> bool:
    """Whether the text cannot be what is said, whatever the language: far too long or too short for the audio.

    Texts of short clips are not judged to be too short: one word may be drawn out.
    """
    characters = sum(not c.isspace() for c in text)
    low, high = CHARACTERS_PER_SECOND
    per_second = characters / max(seconds, 1e-3)
    return (per_second > high and characters > 5) or (per_second < low and seconds > 4.0)


def decibels(amplitude: float) -> float:
    """Amplitude (full scale is 1) in dBFS, not below `FLOOR_DBFS`."""
    return max(FLOOR_DBFS, 20.0 * math.log10(amplitude)) if amplitude > 0 else FLOOR_DBFS


def _decode(path: Path, max_seconds: float) -> tuple[NDArray[np.float32], int]:
    """(samples, channels) float32 and the rate; no more than a second over `max_seconds`."""
    try:
        with soundfile.SoundFile(path) as file:
            wanted = -1 if math.isinf(max_seconds) else int((max_seconds + 1.0) * file.samplerate)
            _check_whole(path, file.extra_info)
            frames: NDArray[np.float32] = file.read(wanted, dtype="float32", always_2d=True)
            return frames, int(file.samplerate)
    except (soundfile.SoundFileError, OSError, RuntimeError, ValueError, TypeError) as error:
        raise Unusable("unreadable", f"{path}: {audio_files.why_unreadable(path)}") from error


def _check_whole(path: Path, notes: str) -> None:
    """Refuse a file that a broken copy has cut off: libsndfile reads what is there, and the text would not fit it."""
    found = _CUT_OFF.search(notes)
    if found:
        promised, there = int(found[1]), int(found[2])
        if there < WHOLE * promised and promised < _UNKNOWN_SIZE:
            raise Unusable("cut_off", f"{path}: cut off: {there} of {promised} bytes of sound; copy it again")


def _mix(frames: NDArray[np.float32]) -> Samples:
    """(samples, channels) -> (samples,): the mean, or the loudest channel where the mean cancels itself out."""
    if frames.shape[1] == 1:
        return np.ascontiguousarray(frames[:, 0])
    mono: Samples = frames.mean(axis=1, dtype=np.float32)
    levels = [_rms(frames[:, channel]) for channel in range(frames.shape[1])]
    loudest = int(np.argmax(levels))
    if decibels(_rms(mono)) < decibels(levels[loudest]) - PHASE_LOSS_DB:
        return np.ascontiguousarray(frames[:, loudest])
    return mono


def _rms(samples: NDArray[np.float32]) -> float:
    """Root mean square around the mean, in double precision: a constant is silence, whatever its value."""
    return float(np.std(samples, dtype=np.float64))


def _measure(mono: Samples, rate: int, channels: int, *, over_full_scale: bool) -> Figures:
    """Figures of a mono recording at its own rate, before resampling moves its peaks."""
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
    )


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
