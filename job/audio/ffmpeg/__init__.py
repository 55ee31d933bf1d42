"""Read the audio of videos and of formats that soundfile does not support, with FFmpeg's libraries (PyAV)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from job.audio import audio_files
from job.audio.ffmpeg.demuxing import Undecodable, head_of
from job.audio.ffmpeg.sound import FfmpegFile
from job.core import inside

if TYPE_CHECKING:
    import soundfile

__all__ = ["FfmpegFile", "Undecodable", "open_sound", "seconds_of"]


def open_sound(path: Path) -> soundfile.SoundFile | FfmpegFile:
    """Open a recording in any format for reading, with soundfile where it supports the format.

    Raises:
        soundfile.SoundFileError, Undecodable, OSError: it cannot be read.
    """
    import soundfile

    found = audio_files.film(head_of(path))
    return soundfile.SoundFile(inside.readable(path)) if found is None else FfmpegFile(path, found[1])


def seconds_of(source: Path | bytes) -> float | None:
    """Approximate duration of a video's audio, from its header if possible; None for files that soundfile reads.

    Raises:
        Undecodable, OSError: it cannot be read.
    """
    found = audio_files.film(head_of(source))
    if found is None:
        return None
    with FfmpegFile(source, found[1]) as file:
        return file.seconds
