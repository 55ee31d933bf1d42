"""Read an audio file's bytes piecemeal, and open it for soundfile with a corrected header and without junk bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import soundfile

from job.audio.ffmpeg import FfmpegFile
from job.audio.unusable import Unusable
from job.core import inside

#: Tolerated difference between declared and actual duration, in seconds and as a share: some programs are a few bytes
#: off.
SLACK_SECONDS, SLACK_SHARE = 0.05, 0.01

#: Magic numbers that reveal another file inside a file; long enough not to occur by chance.
HEADERS = re.compile(
    rb"WAVE(?:fmt |JUNK|bext|LIST|ds64)|AIFFCOMM|AIFCFVER|caff\x00\x01\x00\x00desc|NIST_1A\n|wave\xf3\xac\xd3\x11"
    rb"|fLaC[\x00\x80]\x00\x00\x22|OggS\x00\x02|\.snd\x00\x00\x00"
)

_WINDOW = 1 << 14


@dataclass(frozen=True, slots=True)
class Layout:
    """How to read a checked file: the bytes `start` to `stop`, with `patches` applied and preceded by `prefix`.

    Attributes:
        patches: (offset in the file, replacement bytes) of each correction.
        seconds: duration declared by the container; None if it declares none.
        mended: whether its header was wrong and is corrected.
        zeros_from: time in seconds from which a suspicious file holds nothing but zeros; None if it does not.
        demuxer: name of the demuxer for files read by FFmpeg.
        counted: with `demuxer`, whether the number of samples in the file's header may be trusted.
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
        """Open the file as soundfile should see it; a file without changes is opened directly, which is faster.

        Raises:
            soundfile.SoundFileError, OSError: as from `soundfile.SoundFile`.
            Undecodable: FFmpeg cannot read it.
        """
        if self.demuxer is not None:
            return FfmpegFile(path, self.demuxer, counted=self.counted)
        if not (self.start or self.prefix or self.patches or self.stop is not None):
            return soundfile.SoundFile(inside.readable(path))
        return soundfile.SoundFile(io.BufferedReader(_changed(path, self), 1 << 16))


def _changed(path: Path, layout: Layout) -> io.RawIOBase:
    """A file with a `Layout` applied: it reads as if the changed bytes were on disk."""
    file = inside.open_binary(path)
    stop = inside.size_of(file) if layout.stop is None else layout.stop

    def piece(at: int, wanted: int) -> bytes:
        if at < len(layout.prefix):
            return layout.prefix[at : at + wanted]
        place = layout.start + at - len(layout.prefix)
        file.seek(place)
        read = bytearray(file.read(wanted))
        for offset, content in layout.patches:
            first, last = max(offset, place), min(offset + len(content), place + len(read))
            if first < last:
                read[first - place : last - place] = content[first - offset : last - offset]
        return bytes(read)

    return inside.derived(file, len(layout.prefix) + stop - layout.start, piece)


class Bytes:
    """Random access to the bytes of a file, without reading the rest of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = inside.size_of(file)
        self._base = 0
        self._window = b""

    def at(self, place: int, count: int) -> bytes:
        """Return `count` bytes from offset `place`, fewer at the end of the file."""
        offset = place - self._base
        if not 0 <= offset <= len(self._window) - count:
            self._file.seek(place)
            self._base, offset = place, 0
            self._window = self._file.read(max(count, _WINDOW))
        return self._window[offset : offset + count]

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) of 1 MiB each, overlapping by 16 bytes so that no match is split between two."""
        for place in range(start, stop, 1 << 20):
            self._file.seek(place)
            yield place, self._file.read(min((1 << 20) + 16, stop - place))

    def find(self, pattern: re.Pattern[bytes], start: int) -> int:
        """Offset of the first match at or after `start` of a pattern of at most 16 bytes, -1 if there is none."""
        for place, piece in self.pieces(start, self.size):
            found = pattern.search(piece)
            if found:
                return place + found.start()
        return -1

    def only_zeros(self, start: int) -> bool:
        """Whether there are only zero bytes from `start` on."""
        return not any(piece.strip(b"\0") for _, piece in self.pieces(start, self.size))


def too_different(seconds: float, promised: float) -> bool:
    """Whether actual and declared duration differ by more than rounding."""
    return abs(seconds - promised) > min(SLACK_SECONDS, SLACK_SHARE * max(seconds, promised))


def cut_off(path: Path, there: float, promised: float) -> Unusable:
    """The error for a truncated file, with `there` of the `promised` seconds."""
    return Unusable("cut_off", f"{path}: cut off: {there:.2f} of {promised:.2f} s are there; copy it again")


def joined(path: Path, first: float | None = None) -> Unusable:
    """The error for a file that continues with another one after `first` seconds."""
    after = "" if first is None else f" after {first:.2f} s"
    return Unusable("joined", f"{path}: several files joined into one{after}; split them, or export it again as one")


def wrong_header(path: Path, promised: float, there: float) -> Unusable:
    """The error for a header that declares less audio than there is."""
    detail = f"the header says {promised:.2f} s and {there:.2f} s are there; export it again"
    return Unusable("wrong_header", f"{path}: {detail}")
