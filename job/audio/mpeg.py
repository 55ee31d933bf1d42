"""Check MP3 files by counting their frames against the declared number, without decoding them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from job.audio.opening import HEADERS, Bytes, Layout, cut_off, joined, wrong_header
from job.audio.unusable import Unusable

#: Bitrates in kbit/s by index, for (whether MPEG version 1, layer).
_BITRATES = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)
#: Magic numbers of tags at the end of a file; they are written last, so a file that has one is not truncated.
_TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3", b"3DI")
#: This many zero bytes after the last frame are more than padding: the missing rest of a download.
_HOLLOW = 4096
#: Consecutive frames that rule out a chance match.
_CERTAIN = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """A parsed 4-byte frame header: `length` in bytes, `samples` per channel, `rate` in Hz, offset of a Xing mark."""

    length: int
    samples: int
    rate: int
    xing: int
    kind: tuple[int, int]


@lru_cache(maxsize=4096)
def parse(header: bytes) -> Frame | None:
    """Parse a frame header (4 bytes); None if invalid, or of free bitrate, which does not declare a frame length."""
    bits = int.from_bytes(header, "big")
    version, layer, index, rate_index = bits >> 19 & 3, 4 - (bits >> 17 & 3), bits >> 12 & 15, bits >> 10 & 3
    if len(header) < 4 or bits >> 21 != 0x7FF or version == 1 or layer == 4 or index in (0, 15) or rate_index == 3:
        return None
    first = version == 3
    rate = _RATES[rate_index] >> (0 if first else 1 if version == 2 else 2)
    bitrate = 1000 * _BITRATES[first, layer][index]
    padding = bits >> 9 & 1
    samples = 384 if layer == 1 else 1152 if layer == 2 or first else 576
    length = (12 * bitrate // rate + padding) * 4 if layer == 1 else samples // 8 * bitrate // rate + padding
    mono = bits >> 6 & 3 == 3
    xing = 4 + ((17 if mono else 32) if first else (9 if mono else 17))
    return Frame(length, samples, rate, xing, (version << 2 | layer, rate))


def layout(path: Path, data: Bytes, start: int) -> Layout | None:
    """Check a complete MP3 file and return how to read it; None where no MP3 begins at `start`.

    Raises:
        Unusable: `cut_off`, `joined` or `wrong_header`.
    """
    frame = parse(data.at(start, 4))
    if frame is None or not _certain(data, start):
        return None
    promised = _promised(data, start, frame)
    place = first = start if promised is None else start + frame.length
    count, gaps, stop = 0, 0, first
    for place, found in _walk(data, first, frame.kind):
        if place > stop and data.at(stop, 3) in (b"ID3", b"TAG", b"APE"):
            raise joined(path, count * frame.samples / frame.rate)
        if found.kind != frame.kind or (count and _promised(data, place, found) is not None):
            raise joined(path, count * frame.samples / frame.rate)
        gaps += place - stop
        if place + found.length > data.size:
            break
        count, stop = count + 1, place + found.length
    if stop < data.size and data.find(HEADERS, stop) >= 0:
        raise joined(path, count * frame.samples / frame.rate)
    return _judge(path, data, (start if promised else first, stop), frame, count, promised, gaps)


def _judge(
    path: Path, data: Bytes, span: tuple[int, int], frame: Frame, count: int, promised: int | None, gaps: int
) -> Layout:
    """Judge whether the `count` frames found are all, given the header's number (None: there is no such header)."""
    start, stop = span
    one = frame.samples / frame.rate
    there = count * one
    if promised:
        if count < promised - 1:
            raise cut_off(path, there, promised * one)
        if count > promised + 1:
            raise wrong_header(path, promised * one, there)
        return Layout(start=start, stop=stop)
    after = data.at(stop, 16)
    partial = data.size > stop and parse(after[:4]) is not None
    hollow = data.size - stop >= _HOLLOW and not any(after) and data.only_zeros(stop)
    if (partial and not _tagged(data)) or hollow:
        raise Unusable("cut_off", f"{path}: cut off: {there:.2f} s are there and then it breaks off; copy it again")
    if gaps / max(1, stop - start) * there > 0.05:
        lost = gaps / (stop - start) * there
        raise Unusable("cut_off", f"{path}: about {lost:.2f} s in the middle are no sound; copy it again")
    # soundfile assumes that all frames have the first one's bitrate and stops where the file would then end: declare
    # the number of frames.
    if frame.kind[0] & 3 == 3:
        return Layout(start=start, stop=stop, prefix=_counting_frame(data.at(start, 4), count))
    return Layout(start=start, stop=stop, seconds=there)  # layers I and II have no such frame, and a constant bitrate


def _walk(data: Bytes, place: int, kind: tuple[int, int]) -> Iterator[tuple[int, Frame]]:
    """Yield (offset, frame) of each frame, skipping other bytes up to the next certain one. The last may be cut off."""
    while place < data.size:
        frame = parse(data.at(place, 4))
        if frame is None or (frame.kind != kind and not _certain(data, place)):
            place = find_frames(data, place)
            if place < 0:
                return
            continue
        yield place, frame
        place += frame.length


def another_file(data: Bytes, start: int) -> int:
    """Offset at or after `start` where another audio file begins, -1 if none does."""
    found = data.find(HEADERS, start)
    return found if found >= 0 else find_frames(data, start)


def find_frames(data: Bytes, start: int, stop: int | None = None) -> int:
    """Offset of the first frame from `start` on (several in a row, to rule out chance), -1 if none before `stop`."""
    for place, piece in data.pieces(start, data.size if stop is None else stop):
        offset = piece.find(b"\xff")
        while offset >= 0:
            if parse(piece[offset : offset + 4]) and _certain(data, place + offset):
                return place + offset
            offset = piece.find(b"\xff", offset + 1)
    return -1


def _certain(data: Bytes, place: int) -> bool:
    """Whether consecutive frames of one kind begin here: `_CERTAIN` of them, or fewer up to the end of the file."""
    kind = None
    for number in range(_CERTAIN):
        if number >= 2 and place >= data.size:
            return True
        frame = parse(data.at(place, 4))
        if frame is None or kind not in (None, frame.kind):
            return number >= 2 and _ends(data, place)
        kind = frame.kind
        place += frame.length
    return True


def _ends(data: Bytes, place: int) -> bool:
    return data.size - place < 4 or data.at(place, 11).startswith(_TAGS) or data.only_zeros(place)


def _promised(data: Bytes, place: int, frame: Frame) -> int | None:
    """Number of frames declared by a header frame (Xing, Info or VBRI); 0 if not declared, None for other frames."""
    head = data.at(place, 64)
    mark = head[frame.xing : frame.xing + 4]
    if mark in (b"Xing", b"Info"):
        known = head[frame.xing + 7] & 1
        return int.from_bytes(head[frame.xing + 8 : frame.xing + 12], "big") if known else 0
    if head[36:40] == b"VBRI":
        return int.from_bytes(head[50:54], "big")
    return None


def _tagged(data: Bytes) -> bool:
    """Whether the file ends with a tag."""
    return data.at(max(0, data.size - 128), 3) == b"TAG" or data.at(max(0, data.size - 32), 8) == b"APETAGEX"


def _counting_frame(header: bytes, count: int) -> bytes:
    """Build a Xing header frame, matching the file's frames, that declares how many frames follow."""
    for index in range(1, 15):
        made = bytes([header[0], header[1] | 1, index << 4 | header[2] & 0x0C, header[3]])
        frame = parse(made)
        if frame and frame.length >= frame.xing + 16:
            content = b"Xing" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
            return (made + bytes(frame.xing - 4) + content).ljust(frame.length, b"\0")
    raise AssertionError("no bitrate makes a frame long enough")
