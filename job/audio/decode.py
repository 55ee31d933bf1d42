"""Decode an audio file, whole or in part, within bounded memory and without decoding long files repeatedly."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from job.audio.ffmpeg import FfmpegFile, Undecodable
from job.audio.opening import cut_off, too_different, wrong_header
from job.audio.unusable import Unusable
from job.audio.whole import check
from job.core import console

#: (samples, channels) at the file's own sample rate; full scale is 1.
Frames = NDArray[np.float32]

#: Exceptions raised for files that soundfile, FFmpeg or the system cannot read.
CANNOT_READ = (soundfile.SoundFileError, OSError, RuntimeError, ValueError, TypeError)
#: Formats that declare how much audio they hold; in any other, truncation could not be detected.
_TELLING = {"WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "AU", "FLAC", "OGG", "MP3", "NIST", "FFMPEG"}
#: Encodings that can seek to any sample exactly; all others must be decoded from the beginning.
_SEEKABLE = {"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"}
#: Most files kept open while parts of them are read.
_MOST_FILES = 4
#: Most videos kept open of one that is read in parts: as many threads read it side by side.
_MOST_OPEN = 4
#: Most bytes of decoded audio cached for all of them together.
_MOST_BYTES = 128 << 20
#: Samples per decoded and cached block.
_BLOCK = 1 << 20
#: Seconds examined before a run of zeros, and the level (full scale is 1) above which they are sound.
_BEFORE, _SOUND = 0.02, 0.005


class Recording:
    """An audio file that was checked to be complete. Thread-safe.

    Attributes:
        rate: sample rate, Hz.
        length: samples per channel.
        mended: whether its header was wrong and is corrected while reading.
        tracks: number of audio tracks in the file.
    """

    def __init__(self, path: Path) -> None:
        """Check that the file is complete, according to its container.

        Raises:
            Unusable: it is not complete, or its format cannot tell whether it is.
            CANNOT_READ: soundfile or the system cannot read it.
        """
        self._path = path
        self._layout = check(path)
        self.mended = self._layout.mended
        with _reasons(path), self._layout.open(path) as file:
            self.rate = int(file.samplerate)
            self.length = int(file.frames)
            self._places = getattr(file, "places", None)
            self._seekable = file.subtype in _SEEKABLE or (isinstance(file, FfmpegFile) and file.seekable_exactly)
            self._format = file.format
            self.tracks = getattr(file, "tracks", 1)
            if isinstance(file, FfmpegFile) and file.tracks > 1 and not _said:
                _said.append(path)
                console.say("prepare", f"{path.name}: track {file.track} of its sound is used; others likewise")
        if self._format not in _TELLING:
            detail = f"{path}: {self._format} files do not say how long they are; convert it to WAV or FLAC"
            raise Unusable("unreadable", detail)
        seconds = self._layout.seconds
        if seconds is not None and too_different(self.length / self.rate, seconds):
            raise wrong_header(path, self.length / self.rate, seconds)
        self._lock = threading.Lock()
        self._file: soundfile.SoundFile | FfmpegFile | None = None
        self._next = 0
        self._idle: list[soundfile.SoundFile | FfmpegFile] = []

    def _open(self) -> soundfile.SoundFile | FfmpegFile:
        file = self._layout.open(self._path)
        if isinstance(file, FfmpegFile):
            file.places = self._places
        return file

    def read(self, first: int, last: int) -> Frames:
        """Decode samples `first` to `last`, fewer at the end of the recording, without caching.

        Raises:
            Unusable: `cut_off`: the data ends before the declared end, or ends in zeros that are not silence.
            CANNOT_READ: as above.
        """
        first, last = min(first, self.length), min(last, self.length)
        with _reasons(self._path), self._open() as file:
            try:
                frames = self._decode(file, first, last)
            except soundfile.LibsndfileError as error:
                raise self._cut_off(self._decodable()) from error
        return self._checked(frames, first, last)

    def read_part(self, first: int, last: int) -> Frames:
        """Like `read`, for one of several parts of a file: the decoded blocks are cached for the other parts."""
        if self._seekable:
            return self._read_film(first, last) if self._format == "FFMPEG" else self.read(first, last)
        first, last = min(first, self.length), min(last, self.length)
        with self._lock, _reasons(self._path):
            blocks = [self._block(index) for index in range(first // _BLOCK, max(first, last - 1) // _BLOCK + 1)]
        start = first // _BLOCK * _BLOCK
        return self._checked(np.concatenate(blocks)[first - start : last - start], first, last)

    def _read_film(self, first: int, last: int) -> Frames:
        """Like `read`, for a video, kept open for the next part: a long one takes 10 ms to open."""
        first, last = min(first, self.length), min(last, self.length)
        with self._lock:
            file = self._idle.pop() if self._idle else None
        with _reasons(self._path), ExitStack() as unless_kept:
            if file is not None:
                unless_kept.callback(file.close)
            if file is None or not file.seek_again(first):
                unless_kept.close()
                file = self._open()
                unless_kept.callback(file.close)
                file.seek(first)
            frames = file.read(last - first)
            with self._lock:
                if last < self.length and len(self._idle) < _MOST_OPEN:
                    unless_kept.pop_all()
                    self._idle.append(file)
        return self._checked(frames, first, last)

    def _decode(self, file: soundfile.SoundFile | FfmpegFile, first: int, last: int) -> Frames:
        """Decode samples of a newly opened file in the same blocks as `_block`: MP3's last bit depends on them."""
        if self._seekable:
            file.seek(first)
            whole: Frames = file.read(last - first, dtype="float32", always_2d=True)
            return whole
        pieces = [
            file.read(min(_BLOCK, last - place), dtype="float32", always_2d=True)
            for place in range(0, max(1, last), _BLOCK)
        ]
        return (pieces[0] if len(pieces) == 1 else np.concatenate(pieces))[first:]

    def check_end(self) -> None:
        """Check that the last sample can be decoded, which FLAC and video containers do not tell.

        Raises:
            Unusable: `cut_off`.
        """
        if self._format in ("FLAC", "FFMPEG") and self._seekable and self.length:
            self.read(self.length - 1, self.length)

    def close(self) -> None:
        """Close the file; later reads reopen it and decode from its beginning."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None
            idle, self._idle = self._idle, []
        for file in idle:
            file.close()

    def _block(self, index: int) -> Frames:
        """Return the block of samples starting at `index * _BLOCK`, cached or decoded; call with the lock held."""
        found = _blocks.get((self, index))
        if found is not None:
            return found
        if self._file is None or self._next > index:
            self._file, self._next = self._open(), 0
        while True:
            try:
                block: Frames = self._file.read(_BLOCK, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                self._file = None
                raise self._cut_off(self._decodable()) from error
            _blocks.put((self, self._next), block)
            self._next += 1
            if self._next > index:
                return block

    def _checked(self, frames: Frames, first: int, last: int) -> Frames:
        if too_different((first + len(frames)) / self.rate, last / self.rate):
            raise self._cut_off(first + len(frames))
        zeros = self._layout.zeros_from
        if zeros is not None and first < round(zeros * self.rate) < last:
            end = round(zeros * self.rate) - first
            before = frames[max(0, end - round(_BEFORE * self.rate)) : end]
            if np.abs(before).max(initial=0.0) > _SOUND and not frames[end + 1 :].any():
                raise self._cut_off(first + end)
        return frames

    def _cut_off(self, there: int) -> Unusable:
        return cut_off(self._path, there / self.rate, self.length / self.rate)

    def _decodable(self) -> int:
        """Number of samples that can be decoded, for the error message about a truncated file."""
        count = 0
        with self._open() as file:
            try:
                while found := len(file.read(1024, dtype="float32", always_2d=True)):
                    count += found
            except soundfile.LibsndfileError:
                pass
        return count


@contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Convert FFmpeg's `Undecodable` to `Unusable`, so that the recording is rejected."""
    try:
        yield
    except Undecodable as error:
        raise Unusable(error.reason, f"{path}: {error}") from error


class _Blocks:
    """LRU cache of decoded blocks by file and block index, limited to `_MOST_BYTES`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Recording, int], Frames] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[Recording, int]) -> Frames | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[Recording, int], block: Frames) -> None:
        with self._lock:
            replaced = self._kept.pop(key, None)
            self._kept[key] = block
            self._bytes += block.nbytes - (0 if replaced is None else replaced.nbytes)
            while self._bytes > _MOST_BYTES:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes


@dataclass(slots=True)
class _Entry:
    """A file that is read in parts; the first thread that needs it checks it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    recording: Recording | None = None
    unusable: Unusable | None = None


_blocks = _Blocks()
#: The first video with several audio tracks, so that it is logged only once.
_said: list[Path] = []
_entries: OrderedDict[tuple[str, int, int], _Entry] = OrderedDict()
_entries_lock = threading.Lock()


def recording_of_parts(path: Path) -> Recording:
    """Return the recording at `path`, checked once however many of its parts are read, again if the file changed.

    Raises:
        Unusable, CANNOT_READ: as for `Recording`.
    """
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns)
    with _entries_lock:
        entry = _entries.setdefault(key, _Entry())
        _entries.move_to_end(key)
        dropped = [_entries.popitem(last=False)[1] for _ in range(len(_entries) - _MOST_FILES)]
    for old in dropped:
        if old.recording is not None:
            old.recording.close()
    with entry.lock:
        if entry.unusable is not None:
            raise Unusable(entry.unusable.reason, entry.unusable.detail)
        if entry.recording is None:
            try:
                recording = Recording(path)
                recording.check_end()
            except Unusable as error:
                entry.unusable = error
                raise
            entry.recording = recording
        return entry.recording
