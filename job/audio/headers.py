"""Headers of uncompressed files (WAV, RF64, W64, AIFF, CAF, AU, NIST): location and declared size of the data."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from job.audio.opening import Bytes

#: Last 12 bytes of W64's chunk GUIDs; the first 4 are the chunk's name in WAV.
_W64_NAME = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
#: Bytes per sample by AU encoding number.
_AU_WIDTHS = {1: 1.0, 2: 1.0, 3: 2.0, 4: 3.0, 5: 4.0, 6: 4.0, 7: 8.0, 23: 0.5, 25: 0.375, 26: 0.625, 27: 1.0}
#: AIFF-C's names of uncompressed formats.
_AIFF_PLAIN = (b"NONE", b"twos", b"sowt", b"fl32", b"FL32", b"fl64", b"FL64")


@dataclass(slots=True)
class Sound:
    """Location of a file's audio data, as its header declares.

    Attributes:
        start: offset of the audio data, bytes.
        size: declared size, bytes; None where it is declared unknown, 0 where it was never filled in.
        per_second: bytes per second; 0 where compression makes that unknown.
        field: offset and struct format of the size in the header, and the bytes it counts besides the audio data.
        zero_is_silence: whether zero bytes encode silence.
        unfinished: whether the writing program never completed the header.
        form: format of the chunks after the audio data, as for `chunks`; empty if there can be none.
        hide_rest: whether soundfile would take those chunks for audio data.
    """

    start: int
    size: int | None
    per_second: float
    field: tuple[int, str, int] | None = None
    zero_is_silence: bool = True
    unfinished: bool = False
    form: str = ""
    hide_rest: bool = False


def sound_of(data: Bytes, start: int) -> Sound | None:
    """Parse the header at `start`; None for other formats and incomplete headers."""
    parse = {
        b"RIFF": _riff,
        b"RIFX": _riff,
        b"RF64": _riff,
        b"riff": _w64,
        b"FORM": _aiff,
        b"caff": _caf,
        b".snd": _au,
        b"dns.": _au,
        b"NIST": _nist,
    }.get(data.at(start, 4))
    try:
        return parse(data, start) if parse else None
    except (
        struct.error,
        ValueError,
        KeyError,
        ZeroDivisionError,
    ):  # incomplete or invalid: soundfile will report it
        return None


def chunks(data: Bytes, place: int, form: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, offset of the content, size) of each chunk; `form` is the struct format of the size, or "w64"."""
    while True:
        if form == "w64":
            head = data.at(place, 24)
            name, content = head[:4], place + 24
            if len(head) < 24 or head[4:16] != _W64_NAME:
                return
            size = int.from_bytes(head[16:24], "little") - 24
            step = size + -size % 8
        else:
            width = struct.calcsize(form)
            name, content = data.at(place, 4), place + 4 + width
            raw = data.at(place + 4, width)
            if len(raw) < width:
                return
            size = struct.unpack(form, raw)[0]
            step = size + size % 2 if width == 4 else size
        yield name, content, size
        if step < 0:
            return
        place = content + step


def unknown(size: int) -> bool:
    """Whether a 32-bit size is a placeholder written by programs that write to a pipe: the maximum or slightly less."""
    return size >= 0xFFFF0000 or 0x7FFF0000 <= size < 0x80000000


def _riff(data: Bytes, start: int) -> Sound | None:
    order = ">" if data.at(start, 4) == b"RIFX" else "<"
    form = order + "I"
    whole = struct.unpack(form, data.at(start + 4, 4))[0]
    if data.at(start + 8, 4) != b"WAVE":
        return None
    per_second, plain, large = 0.0, False, None
    for name, place, size in chunks(data, start + 12, form):
        if name == b"ds64":
            large = struct.unpack("<Q", data.at(place + 8, 8))[0], place + 8
        elif name == b"fmt ":
            tag, channels, rate, average, align, bits = struct.unpack(order + "HHIIHH", data.at(place, 16))
            if tag == _EXTENSIBLE:
                tag = struct.unpack(order + "H", data.at(place + 24, 2))[0]
            plain = (tag == _PCM and bits > 8) or tag == _FLOAT
            per_second = float(rate * align if plain or tag == _PCM else average or rate * channels)
        elif name == b"data":
            if not per_second:
                return None
            if large and size == 0xFFFFFFFF:
                known = None if large[0] >= 1 << 62 else large[0]
                return Sound(place, known, per_second, (large[1], "<Q", 0), plain, form=form)
            known = None if unknown(size) else size
            return Sound(place, known, per_second, (place - 4, form, 0), plain, whole == 0 and not known, form)
    return None


def _w64(data: Bytes, start: int) -> Sound | None:
    per_second, plain = 0.0, False
    for name, place, size in chunks(data, start + 40, "w64"):
        if name == b"fmt ":
            tag, channels, rate, average, align, bits = struct.unpack("<HHIIHH", data.at(place, 16))
            if tag == _EXTENSIBLE:
                tag = struct.unpack("<H", data.at(place + 24, 2))[0]
            plain = (tag == _PCM and bits > 8) or tag == _FLOAT
            per_second = float(rate * align if plain or tag == _PCM else average or rate * channels)
        elif name == b"data" and per_second:
            known = 0 if size <= 0 else None if size >= 1 << 62 else size
            return Sound(place, known, per_second, (place - 8, "<Q", 24), plain, form="w64", hide_rest=True)
    return None


def _aiff(data: Bytes, start: int) -> Sound | None:
    kind = data.at(start + 8, 4)
    whole = struct.unpack(">I", data.at(start + 4, 4))[0]
    common: tuple[int, int, int, float, bool] | None = None
    sound: tuple[int, int] | None = None
    for name, place, size in chunks(data, start + 12, ">I"):
        if name == b"COMM":
            channels, frames, bits, exponent, mantissa = struct.unpack(">hIhHQ", data.at(place, 18))
            rate = mantissa * 2.0 ** ((exponent & 0x7FFF) - 16383 - 63)
            plain = kind == b"AIFF" or data.at(place + 18, 4) in _AIFF_PLAIN
            common = channels, frames, -(-bits // 8), rate, plain
        elif name == b"SSND":
            sound = place + 8 + struct.unpack(">I", data.at(place, 4))[0], max(0, size - 8)
            if size == 0 or common:
                break
    if not common or not sound or kind not in (b"AIFF", b"AIFC"):
        return None
    (channels, frames, width, rate, plain), (place, size) = common, sound
    known = None if unknown(size) else size
    if plain and frames and known:
        known = frames * channels * width
    per_second = channels * width * rate if plain else (known or 0) / (frames / rate) if frames else 0.0
    return Sound(place, known, per_second, None, plain, whole == 0 and not known, ">I")


def _caf(data: Bytes, start: int) -> Sound | None:
    per_second, plain = 0.0, False
    for name, place, size in chunks(data, start + 8, ">q"):
        if name == b"desc":
            rate, kind, _, packet, frames, _, _ = struct.unpack(">d4sIIIII", data.at(place, 32))
            per_second = packet / frames * rate if frames else 0.0
            plain = kind == b"lpcm"
        elif name == b"data":
            known = None if size < 0 else max(0, size - 4)
            return Sound(place + 4, known, per_second, (place - 8, ">q", 4), plain, form=">q")
    return None


def _au(data: Bytes, start: int) -> Sound | None:
    order = ">" if data.at(start, 4) == b".snd" else "<"
    offset, size, encoding, rate, channels = struct.unpack(order + "5I", data.at(start + 4, 20))
    known = None if unknown(size) else size
    per_second = _AU_WIDTHS[encoding] * rate * channels
    return Sound(start + offset, known, per_second, (start + 8, order + "I", 0), 3 <= encoding <= 7 or encoding == 2)


def _nist(data: Bytes, start: int) -> Sound | None:
    size = int(data.at(start + 8, 8))
    lines = (line.split(b" ", 2) for line in data.at(start + 16, size - 16).split(b"\n"))
    found = {line[0]: line[2] for line in lines if len(line) == 3}
    frame = int(found[b"sample_n_bytes"]) * int(found.get(b"channel_count", b"1"))
    plain = found.get(b"sample_coding", b"pcm").endswith(b"pcm")
    return Sound(
        start + size,
        int(found[b"sample_count"]) * frame,
        float(frame * int(found[b"sample_rate"])),
        zero_is_silence=plain,
        hide_rest=True,
    )
