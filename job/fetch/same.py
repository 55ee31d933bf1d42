"""Whether two files hold the same recording: a WAV and the MP3 that was made of it do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from job.core import files

#: How much of two recordings is compared, in seconds.
COMPARED = 20.0
#: Hz at which they are compared.
RATE = 8000
#: How much longer one may be, and how far it may be shifted: coders add up to a tenth of a second of silence.
SLACK = 0.15
#: Correlation of the two waveforms from which they count as the same; other words, takes and speakers stay below 0.3.
ALIKE = 0.9


def same_recording(one: Path, other: Path) -> bool:
    """Whether two audio files sound the same: equal bytes, or the same waveform whatever the format and rate.

    Silence is like nothing, and what cannot be read is like no other file.
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
    except (OSError, soundfile.SoundFileError, RuntimeError, ValueError, TypeError, ZeroDivisionError):
        return False


def rate_of(path: Path) -> int:
    """A recording's sampling rate in Hz; 0 when it cannot be read."""
    import soundfile

    from job.audio.ffmpeg import open_sound

    try:
        with open_sound(path) as file:
            return int(file.samplerate)
    except (OSError, soundfile.SoundFileError, RuntimeError, TypeError):
        return 0


def _correlation(one: Path, other: Path) -> float:
    """The largest correlation of two recordings' beginnings when one is shifted by up to `SLACK`."""
    import numpy as np

    first, second = _beginning(one), _beginning(other)
    size = 1 << (len(first) + len(second)).bit_length()
    products = np.fft.irfft(np.fft.rfft(first, size) * np.conj(np.fft.rfft(second, size)), size)
    reach = int(SLACK * RATE)
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(max(products[: reach + 1].max(), products[-reach:].max())) / norm if norm > 0 else 0.0


def _beginning(path: Path) -> Any:
    """The first `COMPARED` seconds as mono samples (n,) at `RATE` Hz, mean removed."""
    import soxr

    from job.audio.ffmpeg import open_sound

    with open_sound(path) as file:
        frames = file.read(int(COMPARED * file.samplerate), dtype="float32", always_2d=True)
        mono = soxr.resample(frames.mean(axis=1), file.samplerate, RATE)
    return mono - mono.mean()
