"""Recordings in every container and codec, and what copies, downloads, recorders and joiners do to them."""

from __future__ import annotations

import io
import struct

import numpy as np
import soundfile

#: Containers and codecs that soundfile writes and people have; the rates that a codec is bound to, if it is.
KINDS = [
    *(("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")),
    *(("WAV", subtype) for subtype in ("IMA_ADPCM", "MS_ADPCM")),
    *(("WAVEX", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT")),
    *(("RF64", subtype) for subtype in ("PCM_16", "FLOAT")),
    *(("W64", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT")),
    *(("AIFF", subtype) for subtype in ("PCM_S8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAW")),
    *(("CAF", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAC_16", "ALAC_24")),
    *(("AU", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT", "ULAW")),
    ("NIST", "PCM_16"),
    *(("FLAC", subtype) for subtype in ("PCM_16", "PCM_24")),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]
RATES = [8_000, 16_000, 22_050, 24_000, 44_100, 48_000]
OPUS_RATES = [8_000, 16_000, 24_000, 48_000]


def encoded(samples: np.ndarray, rate: int, kind: tuple[str, str], endian: str = "FILE") -> bytes:
    """The file that soundfile writes."""
    made = io.BytesIO()
    soundfile.write(made, samples, rate, format=kind[0], subtype=kind[1], endian=endian)
    return made.getvalue()


def with_sizes(content: bytes, sound: int, whole: int | None = None) -> bytes:
    """A WAV whose header says other sizes: of the sound, and of the whole file."""
    changed = bytearray(content)
    place = changed.index(b"data") + 4
    changed[place : place + 4] = struct.pack("<I", sound)
    if whole is not None:
        changed[4:8] = struct.pack("<I", whole)
    return bytes(changed)


def without_count(mp3: bytes) -> bytes:
    """An MP3 without its first frame, which says how many there are: as streaming encoders write it."""
    return mp3[mp3_frames(mp3)[1] :]


def mp3_frames(mp3: bytes) -> list[int]:
    """Where each frame (layer III) begins."""
    first = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    others = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    places, place = [], 0
    while place + 4 <= len(mp3) and mp3[place] == 0xFF:
        places.append(place)
        version = mp3[place + 1] >> 3 & 3
        rate = (44_100, 48_000, 32_000)[mp3[place + 2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}[version]
        kilobits = (first if version == 3 else others)[mp3[place + 2] >> 4]
        place += (144 if version == 3 else 72) * kilobits * 1000 // rate + (mp3[place + 2] >> 1 & 1)
    return places


def ogg_pages(content: bytes) -> list[bytearray]:
    """The pages of an Ogg file."""
    pages, place = [], 0
    while place < len(content):
        assert content[place : place + 4] == b"OggS"
        count = content[place + 26]
        length = 27 + count + sum(content[place + 27 : place + 27 + count])
        pages.append(bytearray(content[place : place + length]))
        place += length
    return pages


def ogg_joined(pages: list[bytearray]) -> bytes:
    """Pages as a file, with the right checksums."""
    for page in pages:
        page[22:26] = bytes(4)
        value = 0
        for byte in page:
            value ^= byte << 24
            for _ in range(8):
                value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
        page[22:26] = struct.pack("<I", value)
    return b"".join(pages)


def ogg_shifted(content: bytes, samples: int) -> bytes:
    """An Ogg file whose positions do not start at 0, as it is recorded from a station that has been on for a while."""
    pages = ogg_pages(content)
    for page in pages:
        (position,) = struct.unpack("<Q", page[6:14])
        if 0 < position < 1 << 62:
            page[6:14] = struct.pack("<Q", position + samples)
    return ogg_joined(pages)


def with_skeleton(content: bytes) -> bytes:
    """An Ogg file that begins with a page of another stream, an index, as some encoders write."""
    pages = ogg_pages(content)
    index = bytearray(b"OggS\0\2" + struct.pack("<QIII", 0, 777, 0, 0) + b"\1\x40" + b"fishead\0\3".ljust(64, b"\0"))
    end = bytearray(b"OggS\0\4" + struct.pack("<QIII", 0, 777, 1, 0) + b"\1\0")
    return ogg_joined([index, pages[0], pages[1], end, *pages[2:]])


def without_total(flac: bytes) -> bytes:
    """A FLAC whose header does not say how many samples there are: as it is written to a pipe."""
    changed = bytearray(flac)
    changed[21] &= 0xF0
    changed[22:26] = bytes(4)
    changed[26:42] = bytes(16)
    return bytes(changed)
