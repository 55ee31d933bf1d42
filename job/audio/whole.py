"""Check from the container, before decoding, that an audio file is complete and is a single recording."""

from __future__ import annotations

import re
from pathlib import Path

from job.audio import audio_files, containers, films, flac, mpeg, ogg
from job.audio.opening import Bytes, Layout
from job.core import inside

_BEGINNINGS = re.compile(rb"RIFF....WAVE|fLaC[\x00\x80]\x00\x00\x22|OggS\x00\x02|FORM....AIF[FC]", re.DOTALL)
#: Most junk bytes (a tag, a server's response, zeros) skipped before a recording.
_JUNK = 4096


def check(path: Path) -> Layout:
    """Check a file and return how to read it so that exactly its audio is decoded.

    Damage that leaves no trace in the container (an MP3 without a frame count, cut between two frames) goes undetected.

    Raises:
        Unusable: `cut_off`, `joined` or `wrong_header`, with one line that says what to do.
        OSError: the file cannot be read.
    """
    with inside.open_binary(path) as file:
        data = Bytes(file)
        start = _behind_tags(data)
        if (film := audio_files.film(data.at(start, audio_files.HEAD_BYTES))) is not None:
            return films.layout(path, data, film[1])
        for place in (start, _behind_junk(data, start)):
            for layout in (containers.layout, flac.layout, ogg.layout, mpeg.layout):
                found = None if place < 0 else layout(path, data, place)
                if found is not None:
                    return found
    return Layout()


def _behind_tags(data: Bytes) -> int:
    """Offset after leading ID3 tags, which files of any format may have."""
    place = 0
    while data.at(place, 3) == b"ID3" and len(head := data.at(place, 10)) == 10:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        place += 10 + size + (10 if head[5] & 0x10 else 0)
    return place


def _behind_junk(data: Bytes, start: int) -> int:
    """Offset of a recording that begins within the first `_JUNK` bytes, -1 if there is none."""
    near = data.at(start, _JUNK + 16)
    found = _BEGINNINGS.search(near)
    if found:
        return start + found.start()
    return mpeg.find_frames(data, start, min(data.size, start + _JUNK))
