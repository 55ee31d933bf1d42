"""Decode a recording or a part of it, at any sample rate and channel count, to mono at the codec's sample rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soxr

from job.audio import audio_files
from job.audio.decode import CANNOT_READ, Frames, Recording, recording_of_parts
from job.audio.measure import (
    CLIPPED_SHARE,
    LOW_RATE,
    SILENT_DBFS,
    Figures,
    Samples,
    decibels,
    measure,
    mix,
    text_mismatch,
)
from job.audio.resampling import resampling
from job.audio.unusable import Unusable
from job.core import storage

__all__ = [
    "CLIPPED_SHARE",
    "LOW_RATE",
    "SILENT_DBFS",
    "Clip",
    "Figures",
    "Samples",
    "Unusable",
    "decibels",
    "load",
    "pad_to_frames",
    "resample",
    "text_mismatch",
]

#: Seconds by which a part may extend past the end of its file: times are often rounded.
PART_SLACK = 0.1


@dataclass(frozen=True, slots=True)
class Clip:
    """One decoded recording: float32 mono `samples` in [-1, 1] at `rate` Hz, and its figures."""

    samples: Samples = field(repr=False)
    rate: int
    figures: Figures


def load(
    path: Path,
    rate: int,
    *,
    min_seconds: float = 0.0,
    max_seconds: float = math.inf,
    start: float | None = None,
    end: float | None = None,
) -> Clip:
    """Decode, check, mix to mono and resample one recording, or the part of it from `start` to `end` (seconds).

    A part is exactly the file's samples round(start * its rate) to round(end * its rate), before resampling. When many
    parts of a file are read, decoded samples are cached up to a limit, so parts in chronological order decode it once.
    At most `max_seconds` + 1 seconds are read at once, so a day-long file does not fill the memory.

    Raises:
        Unusable: `unreadable`, `cut_off`, `joined`, `wrong_header`, `no_such_part`, `empty`, `not_finite`, `too_short`,
            `too_long` or `silent`.
    """
    try:
        if start is None and end is None:
            recording = Recording(path)
            frames = recording.read(0, _most(recording, 0, max_seconds))
        else:
            _check_times(path, start, end)
            recording = recording_of_parts(path)
            frames = _read_part(path, recording, start or 0.0, end, max_seconds)
    except Unusable as error:
        if error.reason == "cut_off":
            storage.check_readable(path)
        raise
    except CANNOT_READ as error:
        storage.check(error, path)
        storage.check_readable(path)
        raise Unusable("unreadable", f"{path}: {audio_files.why_unreadable(path)}") from error
    _check_length(path, len(frames), recording.rate, min_seconds, max_seconds)
    if not np.isfinite(frames).all():
        raise Unusable("not_finite", f"{path}: NaN or infinite samples; export it again")
    mono = mix(frames)
    loudest = float(np.abs(mono).max())
    if loudest > 1.0:  # float files may hold more than full scale; scaling is harmless where clipping is not
        mono = mono / np.float32(loudest)
    figures = measure(
        mono,
        recording.rate,
        frames.shape[1],
        over_full_scale=loudest > 1.0,
        header_mended=recording.mended,
        tracks=recording.tracks,
    )
    if figures.rms < SILENT_DBFS:
        raise Unusable("silent", f"{path}: silent ({figures.rms:.0f} dBFS)")
    return Clip(samples=resample(mono, recording.rate, rate), rate=rate, figures=figures)


def resample(samples: Samples, source: int, target: int) -> Samples:
    """Samples (n,) at `source` Hz -> about (n * target / source,) at `target` Hz, limited to [-1, 1].

    soxr's VHQ filter overshoots slightly at full scale, hence the limit.
    """
    if source == target:
        return samples
    with resampling():
        converted = soxr.resample(samples, source, target, quality="VHQ").astype(np.float32, copy=False)
    limited: Samples = np.clip(converted, -1.0, 1.0)
    return limited


def pad_to_frames(samples: Samples, samples_per_frame: int) -> Samples:
    """Zero-pad (n,) to a whole number of codec frames, at least one.

    The codec encodes a partial last frame differently when a longer clip in the batch pads it; for whole frames the
    codes do not depend on the batch.
    """
    frames = max(1, -(-len(samples) // samples_per_frame))
    return np.pad(samples, (0, frames * samples_per_frame - len(samples)))


def _most(recording: Recording, first: int, max_seconds: float) -> int:
    """Last sample to read: at most one second more than `max_seconds` is held in memory."""
    if math.isinf(max_seconds):
        return recording.length
    return first + int((max_seconds + 1.0) * recording.rate)


def _check_times(path: Path, start: float | None, end: float | None) -> None:
    """Reject times that cannot be a part of any recording."""
    first, last = 0.0 if start is None else start, math.inf if end is None else end
    if not (math.isfinite(first) and first >= 0 and last > first and (end is None or math.isfinite(end))):
        raise Unusable("no_such_part", f"{path}: no part from {first:g} to {last:g} s: the end must be after the start")


def _read_part(path: Path, recording: Recording, start: float, end: float | None, max_seconds: float) -> Frames:
    """The samples from `start` to `end` (None: the file's end)."""
    rate, seconds = recording.rate, recording.length / recording.rate
    if start >= seconds or (end is not None and end > seconds + PART_SLACK):
        until = "its end" if end is None else f"{end:g} s"
        detail = f"{path}: no part from {start:g} s to {until}: the file has {seconds:.2f} s; correct the row's times"
        raise Unusable("no_such_part", detail)
    first = round(start * rate)
    last = _most(recording, first, max_seconds)
    return recording.read_part(first, last if end is None else min(last, round(end * rate)))


def _check_length(path: Path, samples: int, rate: int, min_seconds: float, max_seconds: float) -> None:
    """Reject empty, too short or too long clips; one sample is tolerated, since a part's ends are rounded."""
    if samples == 0:
        raise Unusable("empty", f"{path}: no samples in it")
    if samples > max_seconds * rate + 1:
        raise Unusable("too_long", f"{path}: longer than MAX_SECONDS={max_seconds:g}")
    if samples < min_seconds * rate - 1:
        detail = f"{path}: {samples / rate:.2f} s, shorter than MIN_SECONDS={min_seconds:g}"
        raise Unusable("too_short", detail)
