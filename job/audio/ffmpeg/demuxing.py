"""Opening a file for FFmpeg so that nothing but this file is read, and choosing the track that is heard.

Manifests come from strangers, and FFmpeg opens addresses, playlists and lists of files as readily as recordings. So it
is never given a name, only the bytes of a file that is open already, and never asked what they are: the format follows
from their beginning (`job.audio.audio_files.film`), and no format that refers to other files is among those.
"""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from job.audio import audio_files

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

#: Bytes that are read at once.
_BUFFER = 1 << 16
#: How encrypted tracks are marked.
_ENCRYPTED = ("drms", "enca", "aavd")


class Undecodable(RuntimeError):
    """A file that FFmpeg cannot read, in one phrase: what it is and what to do. `reason` is a short category."""

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


class _Nameless:
    """An open file without a name, which FFmpeg can therefore not open again, or take for an address."""

    def __init__(self, file: IO[bytes]) -> None:
        self._seek = file.seek
        self.read, self.tell, self.close = file.read, file.tell, file.close

    def seek(self, place: int, whence: int = 0) -> int:
        """As of a file; for places that no file has, as damaged ones name them, FFmpeg's error and no exception."""
        try:
            return self._seek(place, whence)
        except (OSError, ValueError, OverflowError):
            return -errno.EINVAL


def opened(source: Path | bytes, demuxer: str) -> tuple[IO[bytes], InputContainer]:
    """A file, or its contents, in a format that was told from its beginning.

    Raises:
        Undecodable: it cannot be read as that.
        OSError: the system cannot read the file.
    """
    import av

    file: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb", buffering=0)  # noqa: SIM115
    try:
        container: InputContainer = av.open(
            _Nameless(file),
            "r",
            format=demuxer,
            container_options={"protocol_whitelist": "none"},
            buffer_size=_BUFFER,
            metadata_errors="replace",
        )
    except BaseException as error:
        file.close()
        if isinstance(error, av.error.FFmpegError | ValueError | EOFError | RuntimeError | AssertionError):
            raise Undecodable(_why_not(source, demuxer)) from error
        raise
    return file, container


def _why_not(source: Path | bytes, demuxer: str) -> str:
    """Why a file of a known format cannot be opened."""
    what = _what(source)
    if demuxer == "mov":
        return (
            f"it is {what} whose index (moov) is missing or damaged, as a copy or a recording that was broken off "
            "leaves it; get it again"
        )
    return f"it is {what}, and its header cannot be read: cut off or damaged; get it again"


def _what(source: Path | bytes) -> str:
    found = audio_files.film(head_of(source))
    return found[0] if found else "a film"


def head_of(source: Path | bytes) -> bytes:
    """The first bytes of a file, or of its contents."""
    if isinstance(source, bytes):
        return source[: audio_files.HEAD_BYTES]
    with open(source, "rb") as file:
        return file.read(audio_files.HEAD_BYTES)


def track_of(container: InputContainer, source: Path | bytes) -> AudioStream:
    """The track that is heard: the first that is marked as the default, else the first; all others are not read.

    Raises:
        Undecodable: there is none, it is encrypted, or nothing decodes it.
    """
    import av

    tracks: list[AudioStream] = list(container.streams.audio)
    if not tracks:
        raise Undecodable(f"it is {_what(source)} without a sound track; give the recording")
    track = next((one for one in tracks if one.disposition & av.stream.Disposition.default), tracks[0])
    context: Any = track.codec_context
    if context is not None and context.codec_tag in _ENCRYPTED:
        raise Undecodable(audio_files.PROTECTED)
    if context is None:
        raise Undecodable(f"it is {_what(source)} with sound of a codec that is not read; {audio_files.CONVERT}")
    for stream in container.streams:
        if stream is not track:
            stream.discard = av.stream.Discard.all
    context.thread_count = 1  # sound is decoded fast, and the same on every machine
    return track
