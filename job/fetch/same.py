"""Detect whether two files contain the same recording, such as a WAV and an MP3 made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from job.core import files, storage

#: Seconds compared, from the start of each recording.
COMPARED = 20.0
#: Sample rate of the comparison, Hz.
RATE = 8000
#: Maximum difference in length, and maximum shift, seconds: codecs add up to a tenth of a second of silence.
SLACK = 0.15
#: Minimum correlation of two waveforms that count as the same; different words, takes or speakers stay below 0.3.
ALIKE = 0.9


def same_recording(one: Path, other: Path) -> bool:
    """Whether two audio files have equal bytes, or the same waveform in any format and sample rate.

    Unless the bytes are equal, silent and unreadable files match no other file.
    """
    import soundfile

    from job.audio.ffmpeg import open_sound

    try:
        if one.stat().st_size == other.stat().st_size and files.digest_file(one) == files.digest_file(other):
            return True
        with open_sound(one) as first, open_sound(other) as second:
            if abs(first.frames / first.samplerate - second.frames / second.samplerate) > SLACK:
                return False
        return _correlation(one, other) >= ALIKE
    except (OSError, soundfile.SoundFileError, RuntimeError, ValueError, TypeError, ZeroDivisionError) as error:
        storage.check(error)
        return False


def rate_of(path: Path) -> int:
    """Return a recording's sample rate in Hz; 0 if it cannot be read."""
    import soundfile

    from job.audio.ffmpeg import open_sound

    try:
        with open_sound(path) as file:
            return int(file.samplerate)
    except (OSError, soundfile.SoundFileError, RuntimeError, TypeError) as error:
        storage.check(error, path)
        return 0


def _correlation(one: Path, other: Path) -> float:
    """Return the maximum correlation between the first `COMPARED` seconds of both, shifted by up to `SLACK` seconds."""
    import numpy as np

    first, second = _beginning(one), _beginning(other)
    size = 1 << (len(first) + len(second)).bit_length()
    products = np.fft.irfft(np.fft.rfft(first, size) * np.conj(np.fft.rfft(second, size)), size)
    reach = int(SLACK * RATE)
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(max(products[: reach + 1].max(), products[-reach:].max())) / norm if norm > 0 else 0.0


def _beginning(path: Path) -> Any:
    """Read the first `COMPARED` seconds as mono samples (n,) at `RATE` Hz, mean removed."""
    import soxr

    from job.audio.ffmpeg import open_sound

    with open_sound(path) as file:
        frames = file.read(int(COMPARED * file.samplerate), dtype="float32", always_2d=True)
        mono = soxr.resample(frames.mean(axis=1), file.samplerate, RATE)
    return mono - mono.mean()
