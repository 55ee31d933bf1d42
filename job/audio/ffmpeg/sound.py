"""Read a video's audio track through the interface of `soundfile.SoundFile`: `read`, `seek`, `frames`, `samplerate`."""

from __future__ import annotations

import re
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from job.audio import audio_files
from job.audio.ffmpeg.demuxing import Frames, Undecodable, decoder_again, floats, opened, track_of

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

#: Containers that declare the exact number of samples.
_COUNTED = ("mov", "wv", "tta")
#: Containers with reliable seeking by time; in others FFmpeg guesses the position.
_SOUGHT = (*_COUNTED, "matroska", "asf", "flv")
#: Containers whose declared duration is accurate to within `SLACK`.
_PROMISING = (*_COUNTED, "asf", "ape", "avi", "mpc", "mpc8", "dsf")
#: Seconds decoded before a seek target: a decoder depends on preceding data.
_BEFORE = 2.5
#: Seconds between two recorded positions (`FfmpegFile.places`).
_APART = 1.0
#: Seconds that may be missing from a container's declared duration: encoder delay, or rounded times.
SLACK = 0.1
#: Format of a track's duration in Matroska tags, as written by FFmpeg and mkvmerge.
_DURATION = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
#: Plausible sample rates of recordings, Hz.
_RATES = range(1000, 768_001)
#: Samples decoded per step when counting or skipping.
_BLOCK = 1 << 18


class FfmpegFile:
    """One audio track of a video, or of an audio file in a format read by FFmpeg. Its first sample is at 0 s.

    Attributes:
        samplerate: sample rate, Hz.
        channels: channels of the track.
        tracks: number of audio tracks in the file.
        track: which of them this is, for display (`2 of 3 (nor)`).
        places: timestamp (pts) -> sample at which that frame begins, for some frames. Filled while the samples are
            counted, for containers whose clock is too coarse to identify a sample (Matroska's counts milliseconds).
    """

    format, subtype = "FFMPEG", ""
    samplerate: int
    channels: int
    tracks: int
    track: str
    _decoder: Any
    _first: list[Any]
    _origin: int
    _time_base: Fraction
    _pending: Frames
    _place: int
    _end: int
    _noted: int

    def __init__(self, source: Path | bytes, demuxer: str, *, counted: bool = True) -> None:
        """Open the file and decode its first frame, whose sample rate is more reliable than the header's.

        Args:
            source: the file, or its contents.
            demuxer: FFmpeg's name for its format.
            counted: whether to trust the container's declared number of samples, if there is one.

        Raises:
            Undecodable: FFmpeg cannot read it, or it has no audio.
            OSError: the system cannot read the file.
        """
        self._source, self._demuxer = source, demuxer
        self._counted = counted and demuxer in _COUNTED
        self._length: int | None = None
        self.places: dict[int, int] | None = None
        self.samplerate = self.channels = 0
        self._open()
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> FfmpegFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._decoded.close()
        self._container.close()
        self._file.close()

    @property
    def seekable_exactly(self) -> bool:
        """Whether `seek` finds a sample exactly without decoding everything before it."""
        return self._demuxer in _SOUGHT and (self._counted or bool(self.places))

    @property
    def promised(self) -> float | None:
        """Duration in seconds declared by the container; None where it is missing or only an estimate."""
        track, container = self._track, self._container
        if self._demuxer in _PROMISING and track.duration and track.time_base:
            return float(track.duration * track.time_base)
        if self._demuxer == "matroska" and (own := _DURATION.fullmatch(track.metadata.get("DURATION", ""))):
            return int(own[1]) * 3600 + int(own[2]) * 60 + float(own[3])
        if self._demuxer in ("matroska", "flv") and container.duration and len(container.streams) == 1:
            return container.duration / 1e6
        return None

    @property
    def seconds(self) -> float:
        """Approximate duration in seconds, from the header where it declares one."""
        if (promised := self.promised) is not None:
            return promised
        return self._container.duration / 1e6 if self._container.duration else self.frames / self.samplerate

    @property
    def frames(self) -> int:
        """Samples per channel; where the container does not declare them, everything is decoded once to count them.

        Raises:
            Undecodable: something cannot be decoded, or there is less than the container declares.
        """
        if self._length is None:
            promised = self.promised
            if self._counted and promised:
                self._length = round(promised * self.samplerate)
            else:
                self._length = self._count(promised or 0.0)
        return self._length

    def _count(self, promised: float) -> int:
        with FfmpegFile(self._source, self._demuxer) as other:
            other.places = self.places = {}
            while len(other.read(_BLOCK)):
                pass
            seconds = other._place / self.samplerate
        if seconds < promised - SLACK:
            detail = f"{seconds:.2f} of {promised:.2f} s are there: cut off, or with gaps; copy or convert it again"
            raise Undecodable(detail, "cut_off")
        return other._place

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> Frames:
        """Decode the next (frames, channels) samples, fewer at the end.

        Raises:
            Undecodable: the data is damaged or incomplete.
        """
        pieces, there = [self._pending], len(self._pending)
        while there < frames and (frame := next(self._decoded, None)) is not None:
            if frame.pts is not None and self.places is not None and self._end >= self._noted:
                self.places.setdefault(frame.pts, self._end)
                self._noted = self._end + round(_APART * self.samplerate)
            pieces.append(self._floats(frame))
            there += len(pieces[-1])
        found = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        self._pending = found[frames:]
        self._place += len(found[:frames])
        return found[:frames]

    def seek(self, place: int) -> int:
        """Seek to a sample: exactly, or as precisely as the container's clock allows. Return the new position.

        Raises:
            Undecodable: as for `read`, for the data that must be decoded to get there.
        """
        near = 0 <= place - self._place <= _BEFORE * self.samplerate
        if not near and not (self.seekable_exactly and self._jump(place)):
            self._open()
            self._begin()
        return self._skip_to(place)

    def _skip_to(self, place: int) -> int:
        while self._place < place and len(self.read(min(_BLOCK, place - self._place))):
            pass
        return self._place

    def seek_again(self, place: int) -> bool:
        """Seek to a sample as a newly opened file would, so that the same samples are read; False if that needs one.

        Raises:
            Undecodable: as for `seek`.
        """
        far = self._counted and place > 2 * _BEFORE * self.samplerate
        decoder = decoder_again(self._track, self._first) if far else None
        if decoder is None:
            return False
        self._decoder = decoder
        return self._jump(place) and self._skip_to(place) == place

    def _jump(self, place: int) -> bool:
        """Seek with FFmpeg to a little before a sample and decode from there; False where it ends up after it."""
        import av

        seconds = place / self.samplerate - _BEFORE
        if seconds <= 0:
            return False
        try:
            self._container.seek(self._origin + int(seconds / self._time_base), stream=self._track)
        except av.error.FFmpegError:
            return False
        self._decoded = self._decode(lenient=True)
        for frame in self._decoded:
            if frame.pts is None:
                continue
            if self._counted:
                found: int | None = round((frame.pts - self._origin) * self._time_base * self.samplerate)
            else:
                found = (self.places or {}).get(frame.pts)
            if found is not None:
                self._place = self._end = found
                self._pending = self._floats(frame)
                return 0 <= found <= place
        return False

    def _open(self) -> None:
        if self.samplerate:
            self.close()
        self._file, self._container = opened(self._source, self._demuxer)
        try:
            self._track = track_of(self._container, self._source)
        except BaseException as error:
            self._container.close()
            self._file.close()
            if isinstance(error, ValueError):  # invalid characters in the header
                raise Undecodable("its header is damaged; get it again") from error
            raise
        self._decoder = self._track.codec_context
        self._first = []
        self._begun = False
        self._decoded = self._decode(lenient=self._demuxer == "mpegts")  # broadcast recordings begin mid-stream

    def _begin(self) -> None:
        """Decode the first frame of a newly opened file and initialize the position."""
        tracks = list(self._container.streams.audio)
        language = self._track.metadata.get("language", "")
        self.tracks = len(tracks)
        self.track = f"{tracks.index(self._track) + 1} of {len(tracks)}" + (f" ({language})" if language else "")
        frame = next(self._decoded, None)
        self._begun = True
        if frame is None or frame.sample_rate not in _RATES:
            raise Undecodable("its sound track holds nothing that can be decoded: cut off or damaged; get it again")
        self.samplerate, self.channels = frame.sample_rate, frame.layout.nb_channels
        self._time_base = frame.time_base or self._track.time_base or Fraction(1, self.samplerate)
        self._origin = frame.pts or 0
        self._place = self._end = self._noted = 0
        self._pending = self._floats(frame)

    def _decode(self, lenient: bool) -> Generator[AudioFrame, None, None]:
        """Yield the track's decoded frames; `lenient` skips undecodable packets before the first frame.

        Raises:
            Undecodable: the data is damaged, or truncated within a packet.
        """
        import av

        coded = not self._track.codec_context.name.startswith("pcm_")
        try:
            for packet in self._container.demux(self._track):
                try:
                    if coded and packet.size and not np.frombuffer(memoryview(packet), np.uint8).any():
                        raise ValueError("zeros")  # left by an interrupted download; some decoders output silence
                    if not self._begun:
                        self._first.append(packet)
                    frames = self._decoder.decode(packet)
                    if packet.is_corrupt or any(frame.is_corrupt for frame in frames):
                        raise ValueError("damaged, or not all there")
                except (av.error.FFmpegError, ValueError):
                    if lenient:
                        continue
                    raise
                for frame in frames:
                    lenient = False
                    yield frame
        except IndexError:  # PyAV looks up tracks that appeared late, which are not ours; the file ends here
            return
        except (av.error.FFmpegError, ValueError) as error:
            where = f" after {self._end / self.samplerate:.2f} s" if self.samplerate else ""
            detail = f"its sound cannot be decoded{where}: cut off or damaged; get it again"
            raise Undecodable(detail, "cut_off") from error

    def _floats(self, frame: AudioFrame) -> Frames:
        """Convert a frame to float32 samples (samples, channels)."""
        if (frame.sample_rate, frame.layout.nb_channels) != (self.samplerate, self.channels):
            detail = f"its sampling rate or channels change after {self._end / self.samplerate:.2f} s"
            raise Undecodable(f"{detail}; {audio_files.CONVERT}")
        self._end += frame.samples
        return floats(frame)
