"""Files that lie inside a larger one (a tar, a pack): how they are named, opened, stamped and hashed.

Such a file is named by a path below the larger one: `/data/night-1.tar/1536+20480+a.flac` are the 20480 bytes from byte
1536 on. No file of the system can have that path, since what would be its folder is a file. The name behind the numbers
says what it is: in a tar the member's own, in a pack (`.pack`, to which more is appended) the digest of its contents.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

#: Ends of the names of files that contain others.
PACK = ".pack"
HOLDERS = (PACK, ".tar")
_PLACE = re.compile(r"(\d+)\+(\d+)\+(.*)", re.DOTALL)
#: Files up to this size are read whole when they are opened.
_AT_ONCE = 8 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file lies: `size` bytes from `start` on of the file `holder`; `name` is what it is called there."""

    holder: Path
    start: int
    size: int
    name: str

    def path(self) -> Path:
        """The path that names it."""
        return self.holder / f"{self.start}+{self.size}+{self.name}"


def place_of(path: Path) -> Place | None:
    """The place that a path names; None for an ordinary path, of which nothing is looked at."""
    folder, name = os.path.split(path)
    if not folder.lower().endswith(HOLDERS):
        return None
    found = _PLACE.fullmatch(name)
    return Place(Path(folder), int(found[1]), int(found[2]), found[3]) if found and Path(folder).is_file() else None


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for reading, unbuffered, wherever it lies.

    Raises:
        OSError: it cannot be read; the larger file ends before it does.
    """
    place = place_of(path)
    if place is None:
        return open(path, "rb", buffering=0)
    handle = open(place.holder, "rb", buffering=0)  # noqa: SIM115 - closed by `derived`'s file, or here
    try:
        if os.fstat(handle.fileno()).st_size < place.start + place.size:
            raise OSError(f"{place.holder} is cut off before {place.name} ends")
        if place.size > _AT_ONCE:
            return cast(IO[bytes], _part(handle, place))
        with handle:
            return io.BytesIO(_exactly(handle, place))
    except BaseException:
        handle.close()
        raise


def read_bytes(path: Path) -> bytes:
    """The contents of a file, wherever it lies."""
    with open_binary(path) as file:
        return file.read()


def readable(path: Path) -> str | IO[bytes]:
    """A file as libraries take it that open files by name: the name, or what reads it where it lies in a larger one."""
    if place_of(path) is None:
        return str(path)
    opened = open_binary(path)
    return io.BufferedReader(opened, 1 << 16) if isinstance(opened, io.RawIOBase) else opened


def size_of(file: IO[bytes]) -> int:
    """Size of an open file; it is then at its beginning."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def is_there(path: Path) -> bool:
    """Whether a file exists, wherever it lies."""
    place = place_of(path)
    if place is None:
        return path.is_file()
    try:
        return place.holder.stat().st_size >= place.start + place.size
    except OSError:
        return False


def name_of(path: Path) -> str:
    """What a file is called in messages."""
    place = place_of(path)
    return path.name if place is None else f"{place.holder.name}: {place.name}"


def stamp(place: Place) -> tuple[str, int, int]:
    """What tells that the contents of a place changed: the digest in its name, or the larger file's size and time."""
    try:
        status = place.holder.stat()
    except OSError:
        return str(place.path()), -1, -1
    if status.st_size < place.start + place.size:
        return str(place.path()), -1, -1
    if place.holder.suffix.lower() == PACK:
        return place.name, place.size, 0
    return str(place.path()), status.st_size, status.st_mtime_ns


def _exactly(handle: IO[bytes], place: Place) -> bytes:
    handle.seek(place.start)
    read = b""
    while len(read) < place.size and (more := handle.read(place.size - len(read))):
        read += more
    return read


def derived(file: IO[bytes], size: int, piece: Callable[[int, int], bytes]) -> io.RawIOBase:
    """A read-only file of `size` bytes that are made from another open file, which is closed with it.

    Args:
        piece: gives at most so many bytes from a place on: (place, wanted) -> bytes, at least one where there are any.
    """
    return _Derived(file, size, piece)


class _Derived(io.RawIOBase):
    def __init__(self, file: IO[bytes], size: int, piece: Callable[[int, int], bytes]) -> None:
        self._file, self._size, self._piece = file, size, piece
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._size - self._at))
        piece = self._piece(self._at, wanted) if wanted else b""
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def close(self) -> None:
        self._file.close()
        super().close()


def _part(handle: IO[bytes], place: Place) -> io.RawIOBase:
    """A part of an open file, as a file of its own."""

    def piece(at: int, wanted: int) -> bytes:
        handle.seek(place.start + at)
        return handle.read(wanted)

    return derived(handle, place.size, piece)
