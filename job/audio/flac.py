"""Check FLAC files: compare the header's number of samples with the last frame's, or take it from there if missing."""

from __future__ import annotations

import re
from pathlib import Path

from job.audio.checksum import crc
from job.audio.mpeg import another_file
from job.audio.opening import Bytes, Layout, joined, too_different, wrong_header
from job.audio.unusable import Unusable

#: Bytes at the end of a file that are searched for its last frame.
_TAIL = 1 << 17
#: The magic number and the header of the STREAMINFO block, which every file begins with.
_BEGINNING = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")


def layout(path: Path, data: Bytes, start: int) -> Layout | None:
    """Check a FLAC file and return how to read it; None where no FLAC file begins at `start`.

    A file written to a pipe does not declare its number of samples, which soundfile needs; the last frame gives it.
    Where the number is declared, truncation shows when decoding: soundfile then finds fewer samples.

    Raises:
        Unusable: `joined`; `wrong_header` where there are more samples than declared; `cut_off` where no number is
            declared and the last frame is incomplete.
    """
    info = data.at(start, 42)
    if len(info) < 42 or not _BEGINNING.match(info):
        return None
    rate = int.from_bytes(info[18:21], "big") >> 4
    total = int.from_bytes(info[21:26], "big") & 0xFFFFFFFFF
    if data.find(_BEGINNING, start + 4) >= 0:
        raise joined(path, total / rate if total and rate else None)
    found = _last_sample(data, start, int.from_bytes(info[10:12], "big")) if rate else 0
    if not found and another_file(data, start + 42) >= 0:
        raise joined(path, total / rate if total and rate else None)
    if total or not rate:
        if found > total and too_different(found / rate, total / rate):
            raise wrong_header(path, total / rate, found / rate)
        return Layout(start=start, seconds=total / rate if rate else None)
    if not found:
        raise Unusable("cut_off", f"{path}: cut off: its last frame is not complete; copy it again")
    figures = ((info[21] & 0xF0) << 32 | found).to_bytes(5, "big")
    return Layout(start=start, patches=((start + 21, figures),), seconds=found / rate)


def _last_sample(data: Bytes, start: int, block: int) -> int:
    """Samples up to the end of the last frame, 0 where none is complete; `block` is the samples per frame."""
    for stop in (data.size, data.size - 128):  # a 128-byte ID3v1 tag may follow
        tail = data.at(max(start, stop - _TAIL), min(_TAIL, stop - start))
        place = tail.rfind(b"\xff")
        while place >= 0:
            frame = tail[place:]
            if len(frame) > 6 and frame[1] & 0xFE == 0xF8:
                found = _frame_end(frame, block)
                if found and crc(frame, 16, 0x8005) == 0:
                    return found
            place = tail.rfind(b"\xff", 0, place)
    return 0


def _frame_end(frame: bytes, block: int) -> int:
    """Samples up to the end of a frame, from its header; 0 where the header is invalid."""
    number, place = _coded_number(frame, 4)
    code = frame[2] >> 4
    if place > len(frame) - 4:
        return 0
    if code in (6, 7):
        size = int.from_bytes(frame[place : place + code - 5], "big") + 1
        place += code - 5
    else:
        size = (0, 192, 576, 1152, 2304, 4608)[code] if code < 6 else 256 << (code - 8)
    place += {12: 1, 13: 2, 14: 2}.get(frame[2] & 15, 0)
    if not size or number < 0 or place >= len(frame) or crc(frame[: place + 1], 8, 0x07):
        return 0
    return (number if frame[1] & 1 else number * block) + size


def _coded_number(frame: bytes, place: int) -> tuple[int, int]:
    """Parse a number coded as in UTF-8, up to seven bytes; return it (-1 if malformed) and the offset after it."""
    first = frame[place]
    ones = 8 - (first ^ 0xFF).bit_length()
    if ones == 0:
        return first, place + 1
    if ones in (1, 8):
        return -1, place + 1
    number = first & (0x7F >> ones)
    for byte in frame[place + 1 : place + ones]:
        if byte >> 6 != 2:
            return -1, place + 1
        number = number << 6 | byte & 0x3F
    return number, place + ones
