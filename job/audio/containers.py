"""Uncompressed files (WAV, RF64, W64, AIFF, CAF, AU, NIST): the sound that is there against what the header says."""

from __future__ import annotations

import struct
from pathlib import Path

from job.audio.headers import Sound, chunks, sound_of
from job.audio.mpeg import another_file
from job.audio.opening import HEADERS, Bytes, Layout, cut_off, joined, too_different, wrong_header
from job.audio.unusable import Unusable

#: What files begin with: where one stands behind the sound, another file follows.
MAGIC = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b".snd", b"riff", b"fLaC", b"OggS", b"NIST")
#: Tags that players put behind everything else.
_TAGS = (b"TAG", b"APET", b"ID3", b"LYRI", b"3DI")
#: Chunks of notes; one that is cut off itself is no loss.
_NOTES = tuple(
    b"LIST,bext,id3 ,cue ,smpl,iXML,JUNK,FLLR,PAD ,inst,acid,_PMX,MARK,COMT,INST,APPL,ANNO,NAME,AUTH".split(b",")
)
#: Seconds of nothing but zero bytes at the end from which they are looked at.
_HOLLOW_SECONDS = 0.25
#: Bytes of zeros at the end of compressed sound that are none of it.
_COMPRESSED_ZEROS = 256
#: Downloads and file systems leave zeros in whole blocks of so many bytes.
_BLOCK = 4096
#: Bytes before a block's end that may be zero by chance in sound that is not silent.
_CHANCE = 8


def layout(path: Path, data: Bytes, start: int) -> Layout | None:
    """How a whole file must be read; None for other formats, and where there is no header to go by.

    A header that was never filled in (its recorder crashed), or says that it does not know, counts as if it named all
    that is there.

    Raises:
        Unusable: `cut_off`, `joined` or `wrong_header`.
    """
    sound = sound_of(data, start)
    if sound is None:
        return None
    there = max(0, data.size - sound.start)
    if not sound.size:
        if not there or (sound.size == 0 and not sound.unfinished and _is_notes(data, sound.start, sound)):
            return Layout(start=start)  # an empty recording
        return _to_the_end(path, data, start, sound, there)
    if there < sound.size and _differ(sound, there, sound.size):
        if not sound.per_second:
            raise Unusable("cut_off", f"{path}: cut off: {there} of {sound.size} bytes are there; copy it again")
        raise cut_off(path, there / sound.per_second, sound.size / sound.per_second)
    end = min(sound.start + sound.size, data.size)
    clean = _is_notes(data, end, sound)
    if not clean:
        if any(data.at(end + pad, 4) in MAGIC for pad in (0, end % 2)) or another_file(data, end) >= 0:
            raise joined(path, sound.size / sound.per_second if sound.per_second else None)
        if _differ(sound, there, sound.size):
            raise wrong_header(path, sound.size / (sound.per_second or 1), there / (sound.per_second or 1))
    stop = end if end < data.size and (sound.hide_rest or not clean) else None
    seconds = (end - sound.start) / sound.per_second if sound.zero_is_silence and sound.per_second else None
    return Layout(start=start, stop=stop, seconds=seconds, zeros_from=_zeros_from(path, data, sound, end))


def _to_the_end(path: Path, data: Bytes, start: int, sound: Sound, there: int) -> Layout:
    """A header without a size: everything is sound, unless another file begins in it."""
    other = data.find(HEADERS, sound.start)
    if other >= 0:
        raise joined(path, (other - sound.start) / sound.per_second if sound.per_second else None)
    patches: tuple[tuple[int, bytes], ...] = ()
    if sound.field:
        place, form, more = sound.field
        size = there + more if form[-1] in "qQ" else min(there + more, 0xFFFFFFFF)
        patches = ((place, struct.pack(form, size)),)
    mended = sound.unfinished or sound.size == 0
    return Layout(start=start, patches=patches, mended=mended, zeros_from=_zeros_from(path, data, sound, data.size))


def _differ(sound: Sound, there: int, promised: int) -> bool:
    per_second = sound.per_second or promised  # where it is unknown, the share counts
    return too_different(there / per_second, promised / per_second)


def _is_notes(data: Bytes, end: int, sound: Sound) -> bool:
    """Whether behind the sound come only chunks, tags and zeros (or nothing)."""
    if data.size - end < 8 or data.at(end, 4).startswith(_TAGS) or data.only_zeros(end):
        return True
    starts = {"w64": {end + -end % 8, end}, ">q": {end}, "": set()}.get(sound.form, {end + end % 2, end})
    return any(_are_chunks(data, place, sound.form) for place in starts)


def _are_chunks(data: Bytes, place: int, form: str) -> bool:
    """Whether all the rest of a file are chunks without sound; the last may be cut off where it holds notes."""
    for name, content, size in chunks(data, place, form):
        if name.startswith(_TAGS) or (not any(name) and data.only_zeros(place)):
            return True
        if name in (*MAGIC, b"data", b"SSND") or not (name.isascii() and name.decode().isprintable()):
            return False
        if size < 0 or content + size > data.size:
            return size >= 0 and name in _NOTES
        place = content + size
    return data.size - place < 24


def _zeros_from(path: Path, data: Bytes, sound: Sound, end: int) -> float | None:
    """The second from which a file holds only zeros that may be missing sound: whole blocks, up to the file's end.

    Whether they are is seen in what comes before them: silence that was recorded, or added, is not begun in a word.

    Raises:
        Unusable: `cut_off` where zero bytes are no silence.
    """
    if any(data.at(max(sound.start, data.size - 64), 64)) or not data.only_zeros(end):
        return None
    place = end
    for begin in range(end, sound.start, -_BLOCK):
        piece = data.at(max(sound.start, begin - _BLOCK), min(_BLOCK, begin - sound.start)).rstrip(b"\0")
        place = max(sound.start, begin - _BLOCK) + len(piece)
        if piece:
            break
    if not sound.per_second:  # compressed: no run of zeros is sound
        if end - place < _COMPRESSED_ZEROS:
            return None
        raise Unusable("cut_off", f"{path}: cut off: only zeros behind {place} of {data.size} bytes; copy it again")
    first, length = (place - sound.start) / sound.per_second, (end - place) / sound.per_second
    if length < _HOLLOW_SECONDS or place == sound.start:
        return None
    if not sound.zero_is_silence:
        raise cut_off(path, first, first + length)
    return first if -place % _BLOCK <= _CHANCE else None
