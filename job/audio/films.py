"""Check video files, and audio in video containers, for truncation and for several files joined into one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from job.audio import audio_files
from job.audio.opening import Bytes, Layout, joined
from job.audio.unusable import Unusable

#: Compressed audio never ends in this many zero bytes.
_ZEROS = 64
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_ENCRYPTED = bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e")
_MATROSKA_SEGMENT = b"\x18S\x80g"


def layout(path: Path, data: Bytes, demuxer: str) -> Layout:
    """Check that the top-level elements of a video file are complete, and return how to read it.

    Raises:
        Unusable: `cut_off`, `joined`, or `unreadable` where it is copy protected.
    """
    counted = True
    if demuxer == "mov":
        counted = _check_boxes(path, data)
    elif demuxer == "matroska":
        _check_matroska(path, data)
    elif demuxer == "asf":
        _check_asf(path, data)
    elif not any(data.at(max(0, data.size - _ZEROS), _ZEROS)):
        raise Unusable("cut_off", f"{path}: cut off: it ends in nothing but zeros; copy it again")
    elif demuxer == "flv":
        _check_flv(path, data)
    elif demuxer == "mpegts":
        size = 188 if data.at(0, 1) == b"G" else 192
        _check_size(path, data, -(-data.size // size) * size)
    elif demuxer == "avi":
        _check_size(path, data, 8 + struct.unpack("<I", data.at(4, 4).ljust(4, b"\0"))[0])
    return Layout(demuxer=demuxer, counted=counted)


def _check_size(path: Path, data: Bytes, promised: int) -> None:
    if data.size < promised:
        raise Unusable("cut_off", f"{path}: cut off: {data.size} of {promised} bytes are there; copy it again")


def _check_boxes(path: Path, data: Bytes) -> bool:
    """Check an MPEG-4 or QuickTime file; return whether its index covers all the audio (not in fragmented files)."""
    names = []
    for name, place, size in _boxes(data):
        _check_size(path, data, place + size)
        names.append(name)
    if names.count(b"ftyp") > 1 and names.count(b"moov") > 1:
        raise joined(path)
    return b"moof" not in names


def _boxes(data: Bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, offset, size in bytes) of each box, up to the first bytes that are not a box."""
    place = 0
    while place + 8 <= data.size:
        head = data.at(place, 16)
        size, name = struct.unpack(">I4s", head[:8])
        if size == 1 and len(head) == 16:
            size = struct.unpack(">Q", head[8:])[0]
        elif size == 0:
            size = data.size - place  # to the end of the file
        if size < 8 or not name.isascii() or not name.decode().isprintable():
            return
        yield name, place, size
        place += size


def _check_matroska(path: Path, data: Bytes) -> None:
    """Check the declared size of a Matroska or WebM file's segment, and that no other file follows it."""
    size, length = _number(data.at(4, 8))
    place = 4 + length + size
    head = data.at(place, 12)
    if head[:4] != _MATROSKA_SEGMENT:
        return
    size, length = _number(head[4:])
    if not length or size == (1 << 7 * length) - 1:  # unknown size, written by a live stream
        return
    end = place + 4 + length + size
    _check_size(path, data, end)
    if data.at(end, 4) == data.at(0, 4):
        raise joined(path)


def _number(coded: bytes) -> tuple[int, int]:
    """Parse a Matroska (EBML) variable-length integer: its value and its bytes; 0 bytes where it is malformed."""
    length = 9 - coded[0].bit_length() if coded else 9
    if length > min(8, len(coded)):
        return 0, 0
    return int.from_bytes(coded[:length], "big") & ((1 << 7 * length) - 1), length


def _check_asf(path: Path, data: Bytes) -> None:
    """Check a Windows Media file against the size in its header, and that it is not copy protected."""
    (size,) = struct.unpack("<Q", data.at(16, 8).ljust(8, b"\0"))
    head = data.at(0, min(size, 1 << 16))
    if _ASF_ENCRYPTED in head:
        raise Unusable("unreadable", f"{path}: {audio_files.PROTECTED}")
    place = head.find(_ASF_FILE)
    if place < 0 or len(head) < place + 92:
        return
    (promised,) = struct.unpack("<Q", head[place + 40 : place + 48])
    live = head[place + 88] & 1
    if not live:
        _check_size(path, data, promised)


def _check_flv(path: Path, data: Bytes) -> None:
    """Check that a Flash video ends with the size of its last tag, and that this tag's header gives the same size."""
    size = int.from_bytes(data.at(max(0, data.size - 4), 4), "big")
    place = data.size - 4 - size
    if size < 11 or place < 0 or data.at(place + 1, 3) != (size - 11).to_bytes(3, "big"):
        raise Unusable("cut_off", f"{path}: cut off within a part; copy it again")
