"""Check WAV, RF64, W64, AIFF, CAF, AU and NIST files: compare the audio data present with what the header declares."""

from __future__ import annotations

import struct
from pathlib import Path

from job.audio.headers import Sound, chunks, sound_of
from job.audio.mpeg import another_file
from job.audio.opening import HEADERS, Bytes, Layout, cut_off, joined, too_different, wrong_header
from job.audio.unusable import Unusable

#: Magic numbers; one found right after the audio data means that another file was appended.
MAGIC = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b".snd", b"riff", b"fLaC", b"OggS", b"NIST")
#: Tags that players append to a file.
_TAGS = (b"TAG", b"APET", b"ID3", b"LYRI", b"3DI")
#: Metadata chunks; truncating one of these loses no audio.
_NOTES = tuple(
    b"LIST,bext,id3 ,cue ,smpl,iXML,JUNK,FLLR,PAD ,inst,acid,_PMX,MARK,COMT,INST,APPL,ANNO,NAME,AUTH".split(b",")
)
#: Shortest run of zero bytes at the end, in seconds, that is examined.
_HOLLOW_SECONDS = 0.25
#: Zero bytes at the end of compressed audio that cannot be part of it.
_COMPRESSED_ZEROS = 256
#: Interrupted downloads and file systems leave zeros in whole blocks of this many bytes.
_BLOCK = 4096
#: Bytes just before a block boundary that may be zero by chance in audio that is not silent.
_CHANCE = 8


def layout(path: Path, data: Bytes, start: int) -> Layout | None:
    """Check a complete file and return how to read it; None for other formats and for incomplete headers.

    A size that was never filled in (the recorder crashed) or is declared unknown is taken to be all the data present.

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
    """Layout for a header without a size: all the rest is audio data, unless another file begins in it."""
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
    per_second = sound.per_second or promised  # if unknown, compare as fractions of the declared size
    return too_different(there / per_second, promised / per_second)


def _is_notes(data: Bytes, end: int, sound: Sound) -> bool:
    """Whether only chunks, tags and zeros (or nothing) follow the audio data."""
    if data.size - end < 8 or data.at(end, 4).startswith(_TAGS) or data.only_zeros(end):
        return True
    starts = {"w64": {end + -end % 8, end}, ">q": {end}, "": set()}.get(sound.form, {end + end % 2, end})
    return any(_are_chunks(data, place, sound.form) for place in starts)


def _are_chunks(data: Bytes, place: int, form: str) -> bool:
    """Whether the rest of the file consists of chunks without audio; the last may be truncated if it is metadata."""
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
    """Time in seconds from which the file holds only zeros that may be missing data: whole blocks up to its end.

    Whether data is missing depends on what precedes them: recorded or added silence does not begin in mid-word.

    Raises:
        Unusable: `cut_off` where zero bytes do not encode silence.
    """
    if any(data.at(max(sound.start, data.size - 64), 64)) or not data.only_zeros(end):
        return None
    place = end
    for begin in range(end, sound.start, -_BLOCK):
        piece = data.at(max(sound.start, begin - _BLOCK), min(_BLOCK, begin - sound.start)).rstrip(b"\0")
        place = max(sound.start, begin - _BLOCK) + len(piece)
        if piece:
            break
    if not sound.per_second:  # compressed audio contains no long runs of zeros
        if end - place < _COMPRESSED_ZEROS:
            return None
        raise Unusable("cut_off", f"{path}: cut off: only zeros behind {place} of {data.size} bytes; copy it again")
    first, length = (place - sound.start) / sound.per_second, (end - place) / sound.per_second
    if length < _HOLLOW_SECONDS or place == sound.start:
        return None
    if not sound.zero_is_silence:
        raise cut_off(path, first, first + length)
    return first if -place % _BLOCK <= _CHANCE else None
