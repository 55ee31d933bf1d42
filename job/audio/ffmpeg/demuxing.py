"""Open a file with FFmpeg so that no other file can be read, and select its audio track.

Manifests may come from untrusted sources, and FFmpeg opens URLs, playlists and concatenation lists as readily as
recordings. It is therefore never given a file name, only the bytes of a file that is already open, and never probes the
format: that is determined from the first bytes (`job.audio.audio_files.film`), and none of the formats recognized there
can refer to other files.
"""

from __future__ import annotations

import errno
import io
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from job.audio import audio_files
from job.core import inside

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

#: (samples, channels) at the file's own sample rate; full scale is 1.
Frames = NDArray[np.float32]

#: Read buffer size, bytes.
_BUFFER = 1 << 16
#: Decoders that hold nothing of what came before once they are flushed.
_FORGETFUL = re.compile(r"alac|flac|pcm_\w+")
#: Codec tags of encrypted tracks.
_ENCRYPTED = ("drms", "enca", "aavd")


class Undecodable(RuntimeError):
    """Raised for a file that FFmpeg cannot read. The message says what it is and what to do; `reason` is a category."""

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


class _Nameless:
    """An open file without a `name`, so that FFmpeg can neither reopen it nor take the name for a URL."""

    def __init__(self, file: IO[bytes]) -> None:
        self._seek = file.seek
        self.read, self.tell, self.close = file.read, file.tell, file.close

    def seek(self, place: int, whence: int = 0) -> int:
        """Seek; for invalid offsets, which damaged files may contain, return FFmpeg's error code instead of raising."""
        try:
            return self._seek(place, whence)
        except (OSError, ValueError, OverflowError):
            return -errno.EINVAL


def opened(source: Path | bytes, demuxer: str) -> tuple[IO[bytes], InputContainer]:
    """Open a file, or its contents, with the given demuxer.

    Raises:
        Undecodable: it cannot be read in that format.
        OSError: the system cannot read the file.
    """
    import av

    file: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else inside.open_binary(source)
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
    """Explain why a file of a known format cannot be opened."""
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
    """Return the first `HEAD_BYTES` of a file, or of its contents."""
    if isinstance(source, bytes):
        return source[: audio_files.HEAD_BYTES]
    with inside.open_binary(source) as file:
        return file.read(audio_files.HEAD_BYTES)


def track_of(container: InputContainer, source: Path | bytes) -> AudioStream:
    """Select the audio track to decode: the first one marked as default, else the first. All others are discarded.

    Raises:
        Undecodable: there is no audio track, it is encrypted, or there is no decoder for it.
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
    context.thread_count = 1  # audio decoding is fast, and this makes it the same on every machine
    return track


def decoder_again(track: AudioStream, first: list[Any]) -> Any:
    """Return a decoder in the state of a newly opened file's that has decoded the packets `first` and is to seek.

    FFmpeg's AAC decoder makes up the noise of noisy bands, from a seed that it keeps when it is flushed, so it is
    created anew. None for codecs of which that is not known to give the same samples.
    """
    import av

    used: Any = track.codec_context
    if _FORGETFUL.fullmatch(used.name):
        return used
    if used.name != "aac" or not used.extradata:
        return None
    made: Any = av.CodecContext.create("aac", "r")
    made.extradata, made.thread_count = used.extradata, 1
    for packet in first:
        made.decode(packet)
    made.flush_buffers()
    return made


def floats(frame: AudioFrame) -> Frames:
    """Convert a decoded frame to float32 samples (samples, channels)."""
    values: NDArray[Any] = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128.0) / np.float32(128.0)
    if values.dtype.kind == "i":
        return (values / float(-np.iinfo(values.dtype).min)).astype(np.float32)
    return np.ascontiguousarray(values, dtype=np.float32)
