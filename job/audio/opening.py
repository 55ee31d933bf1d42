"""A recording's file read in small pieces, and opened for soundfile with its header put right or junk left out."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import soundfile

from job.audio.ffmpeg import FfmpegFile
from job.audio.unusable import Unusable

#: Seconds, and share of the whole, that may be missing or too many: some programs are wrong by some bytes.
SLACK_SECONDS, SLACK_SHARE = 0.05, 0.01

#: Marks by which another file within a file is found; by chance there are none.
HEADERS = re.compile(
    rb"WAVE(?:fmt |JUNK|bext|LIST|ds64)|AIFFCOMM|AIFCFVER|caff\x00\x01\x00\x00desc|NIST_1A\n|wave\xf3\xac\xd3\x11"
    rb"|fLaC[\x00\x80]\x00\x00\x22|OggS\x00\x02|\.snd\x00\x00\x00"
)

_WINDOW = 1 << 14


@dataclass(frozen=True, slots=True)
class Layout:
    """How a whole file must be read: the bytes `start` to `stop`, with `patches` in place and `prefix` before them.

    `seconds` is what the container says the sound lasts, where it says it; `mended` that its header was wrong;
    `zeros_from` the second from which a suspicious file holds nothing but zeros. With `demuxer` it is read by FFmpeg,
    and `counted` says whether the number of samples in its header may be trusted.
    """

    start: int = 0
    stop: int | None = None
    prefix: bytes = b""
    patches: tuple[tuple[int, bytes], ...] = ()
    seconds: float | None = None
    mended: bool = False
    zeros_from: float | None = None
    demuxer: str | None = None
    counted: bool = True

    def open(self, path: Path) -> soundfile.SoundFile | FfmpegFile:
        """The file as soundfile shall see it; what must not be changed is opened directly, which is faster.

        Raises:
            soundfile.SoundFileError, OSError: as from `soundfile.SoundFile`.
            Undecodable: FFmpeg cannot read it.
        """
        if self.demuxer is not None:
            return FfmpegFile(path, self.demuxer, counted=self.counted)
        if not (self.start or self.prefix or self.patches or self.stop is not None):
            return soundfile.SoundFile(path)
        return soundfile.SoundFile(io.BufferedReader(_Changed(path, self), 1 << 16))


class _Changed(io.RawIOBase):
    """A file with a `Layout` applied; it reads as if the changed bytes stood on disk."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._file: IO[bytes] = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
        self._layout = layout
        stop = os.fstat(self._file.fileno()).st_size if layout.stop is None else layout.stop
        self._size = len(layout.prefix) + stop - layout.start
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        prefix = self._layout.prefix
        wanted = max(0, min(len(buffer), self._size - self._place))
        if wanted and self._place < len(prefix):
            piece = prefix[self._place : self._place + wanted]
        else:
            place = self._layout.start + self._place - len(prefix)
            self._file.seek(place)
            read = bytearray(self._file.read(wanted))
            for offset, content in self._layout.patches:
                first, last = max(offset, place), min(offset + len(content), place + len(read))
                if first < last:
                    read[first - place : last - place] = content[first - offset : last - offset]
            piece = bytes(read)
        buffer[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()


class Bytes:
    """Bytes of a file anywhere in it, without reading what lies between."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self._base = 0
        self._window = b""

    def at(self, place: int, count: int) -> bytes:
        """`count` bytes from `place`, fewer at the end of the file."""
        offset = place - self._base
        if not 0 <= offset <= len(self._window) - count:
            self._file.seek(place)
            self._base, offset = place, 0
            self._window = self._file.read(max(count, _WINDOW))
        return self._window[offset : offset + count]

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """(place, bytes) of one megabyte each, overlapping by 16 bytes so that nothing is found only in halves."""
        for place in range(start, stop, 1 << 20):
            self._file.seek(place)
            yield place, self._file.read(min((1 << 20) + 16, stop - place))

    def find(self, pattern: re.Pattern[bytes], start: int) -> int:
        """Where what the pattern (of at most 16 bytes) fits begins, -1 if nowhere behind `start`."""
        for place, piece in self.pieces(start, self.size):
            found = pattern.search(piece)
            if found:
                return place + found.start()
        return -1

    def only_zeros(self, start: int) -> bool:
        """Whether nothing but zero bytes comes from `start` on."""
        return not any(piece.strip(b"\0") for _, piece in self.pieces(start, self.size))


def too_different(seconds: float, promised: float) -> bool:
    """Whether more than a rounding lies between what is there and what was promised."""
    return abs(seconds - promised) > min(SLACK_SECONDS, SLACK_SHARE * max(seconds, promised))


def cut_off(path: Path, there: float, promised: float) -> Unusable:
    """The error for a file that lacks sound."""
    return Unusable("cut_off", f"{path}: cut off: {there:.2f} of {promised:.2f} s are there; copy it again")


def joined(path: Path, first: float | None = None) -> Unusable:
    """The error for a file that goes on with another one after `first` seconds."""
    after = "" if first is None else f" after {first:.2f} s"
    return Unusable("joined", f"{path}: several files joined into one{after}; split them, or export it again as one")


def wrong_header(path: Path, promised: float, there: float) -> Unusable:
    """The error for a header that promises less than is there."""
    detail = f"the header says {promised:.2f} s and {there:.2f} s are there; export it again"
    return Unusable("wrong_header", f"{path}: {detail}")
