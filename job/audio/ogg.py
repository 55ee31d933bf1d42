"""Check Ogg files page by page: the stream has its last page, no pages are missing, and nothing follows it."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from job.audio.checksum import crc
from job.audio.mpeg import another_file
from job.audio.opening import Bytes, Layout, joined
from job.audio.unusable import Unusable

_CONTINUED, _FIRST, _LAST = 1, 2, 4
_PAGE = re.compile(rb"OggS\0")
#: Granule position of a page on which no packet ends.
_NO_POSITION = 0xFFFFFFFFFFFFFFFF


@dataclass(slots=True)
class _Stream:
    """One logical stream of the file; positions are in samples at `rate`, which is 0 for streams other than audio."""

    rate: int
    sequence: int
    position: int = 0
    ended: bool = False


def layout(path: Path, data: Bytes, start: int) -> Layout | None:
    """Check a complete Ogg file and return how to read it; None where there is no Ogg audio at `start`.

    Raises:
        Unusable: `cut_off` (the end or pages in the middle are missing) or `joined` (chained streams).
    """
    streams: dict[int, _Stream] = {}
    place, sound_began, first = start, False, -1
    final = b""
    while True:
        header = data.at(place, 27)
        if len(header) < 27 or header[:4] != b"OggS":
            again = data.find(_PAGE, place) if place < data.size and streams else -1
            if again < 0:
                break
            place = again
            continue
        flags, position, serial, sequence = struct.unpack("<xxxxxBQII", header[:22])
        sizes = data.at(place + 27, header[26])
        length = 27 + len(sizes) + sum(sizes)
        if flags & _FIRST:
            if sound_began:
                raise joined(path, _seconds(streams))
            streams[serial] = _Stream(_rate(data.at(place + 27 + len(sizes), 64)), sequence)
            if first < 0 and streams[serial].rate:
                first = place
        elif place + length > data.size:
            break
        elif serial in streams:
            stream = streams[serial]
            if sequence != stream.sequence + 1 and stream.rate:
                raise Unusable("cut_off", f"{path}: pages are missing {_after(streams)}; copy it again")
            stream.sequence = sequence
            stream.position = stream.position if position == _NO_POSITION else position
            stream.ended = bool(flags & _LAST)
            if stream.ended and stream.rate:
                final = data.at(place, length)
            sound_began = sound_began or stream.position > 0
        place += length
    if not any(stream.rate for stream in streams.values()):
        return None
    if place < data.size and another_file(data, place) >= 0:
        raise joined(path, _seconds(streams))
    broken = final and crc(final[:22] + bytes(4) + final[26:], 32, 0x04C11DB7) != int.from_bytes(final[22:26], "little")
    if broken or not all(stream.ended for stream in streams.values() if stream.rate):
        detail = f"{path}: cut off: the last page is missing or broken {_after(streams)}; copy or convert it again"
        raise Unusable("cut_off", detail)
    return Layout(start=first)  # soundfile identifies a file by its first page, which may be an index ("skeleton")


def _rate(packet: bytes) -> int:
    """Positions per second, from a stream's first packet; 0 where the stream is not audio."""
    if packet[:7] == b"\x01vorbis":
        return int.from_bytes(packet[12:16], "little")
    if packet[:8] == b"OpusHead":
        return 48_000
    if packet[:5] == b"\x7fFLAC":
        return int.from_bytes(packet[27:30], "big") >> 4
    if packet[:8] == b"Speex   ":
        return int.from_bytes(packet[36:40], "little")
    return 0


def _seconds(streams: dict[int, _Stream]) -> float:
    return max((stream.position / stream.rate for stream in streams.values() if stream.rate), default=0.0)


def _after(streams: dict[int, _Stream]) -> str:
    return f"after {_seconds(streams):.2f} s"
