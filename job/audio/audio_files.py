"""Recognize audio files by name and first bytes, and say what an undecodable file really is.

Most files that "cannot be decoded" are not audio at all: a git-LFS pointer, the web page of a failed download, an
archive. Converting those, as a decoder's message suggests, cannot help, so each is named for what it is, with what to
do about it.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

from job.core import inside, storage

#: File extensions of formats that soundfile reads.
READABLE = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".aiff", ".aif", ".au", ".caf", ".w64")
#: Extensions of audio and video formats read with FFmpeg's libraries (`job.audio.ffmpeg`).
BY_FFMPEG = (
    *(".m4a", ".m4b", ".aac", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".wma", ".wmv", ".asf", ".webm", ".mkv", ".mka"),
    *(".avi", ".flv", ".mpg", ".mpeg", ".mts", ".m2ts", ".amr", ".ape", ".wv", ".tta", ".mpc", ".ra", ".rm", ".dsf"),
    *(".ac3", ".shn"),
)
#: Extensions of copy-protected audio.
UNREADABLE = (".aax", ".m4p")
#: All extensions of recordings.
SOUNDS = (*READABLE, *BY_FFMPEG, *UNREADABLE)

#: How to convert audio in an unsupported format.
CONVERT = "convert it: ffmpeg -i IN -vn OUT.flac"

#: How much of a file is inspected.
HEAD_BYTES = 4096

_AGAIN = "get the file again"
_UNPACK = "unpack it and name the recordings in it"
_DECRYPT = "decrypt it first"
_NO_SOUND = "give the recording"

#: (first bytes, what such a file is, what to do). The first match wins.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs.github.com/spec/", "a git-LFS pointer, not the recording", "run `git lfs pull`"),
    (b"version https://hawser.github.com/spec/", "a git-LFS pointer, not the recording", "run `git lfs pull`"),
    (b"/annex/objects/", "a git-annex pointer, not the recording", "run `git annex get`"),
    (b"PK\x03\x04", "a ZIP archive", _UNPACK),
    (b"PK\x05\x06", "an empty ZIP archive", _AGAIN),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (b"\x04\x22\x4d\x18", "an LZ4 archive", _UNPACK),
    (b"MSCF", "a Windows cabinet archive", _UNPACK),
    (b"Salted__", "a file that OpenSSL has encrypted", _DECRYPT),
    (b"age-encryption.org/", "a file that age has encrypted", _DECRYPT),
    (b"-----BEGIN PGP MESSAGE", "a file that PGP has encrypted", _DECRYPT),
    (b"-----BEGIN AGE ENCRYPTED", "a file that age has encrypted", _DECRYPT),
    (b"\x8c\x0d\x04", "a file that GnuPG has encrypted", _DECRYPT),
    (b"\x85\x01\x0c\x03", "a file that GnuPG has encrypted", _DECRYPT),
    (b"\x85\x02\x0c\x03", "a file that GnuPG has encrypted", _DECRYPT),
    (b"$ANSIBLE_VAULT", "a file that Ansible has encrypted", _DECRYPT),
    (b"AES\x02", "a file that AES Crypt has encrypted", _DECRYPT),
    (b"LUKS\xba\xbe", "an encrypted disk image", _DECRYPT),
    (b"\0\0\x01\xb3", "MPEG video without sound", _NO_SOUND),
    (b"\x89PNG", "a picture", _NO_SOUND),
    (b"\xff\xd8\xff", "a picture", _NO_SOUND),
    (b"GIF8", "a picture", _NO_SOUND),
    (b"%PDF", "a PDF document", _NO_SOUND),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Microsoft Office document", _NO_SOUND),
    (b"PAR1", "a Parquet table", "give it as TRAIN_JSONL or DATA_DIR"),
    (b"\x93NUMPY", "a NumPy array", "write the recording as WAV"),
    (b"\x89HDF", "an HDF5 file", "write the recordings as WAV"),
    (b"\x7fELF", "a program", _NO_SOUND),
    (b"MZ\x90\0", "a Windows program", _NO_SOUND),
    (b"L\0\0\0\x01\x14\x02\0", "a Windows shortcut", "give the file that it points to"),
    (b"\0\x05\x16\x07", "what macOS keeps beside a file, not the recording", "give the file without ._ in its name"),
    (b"MThd", "a MIDI file: notes, no sound", _NO_SOUND),
    (b"#EXTM3U", "a playlist", "give the recordings that it names"),
)

#: (first bytes, what such a file is, name of FFmpeg's demuxer for it).
_FILMS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1aE\xdf\xa3", "WebM or Matroska", "matroska"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (WMA or WMV)", "asf"),
    (b"FLV\x01", "Flash video", "flv"),
    (b"\0\0\x01\xba", "MPEG video", "mpeg"),
    (b"#!AMR", "AMR sound", "amr"),
    (b"ADIF", "AAC sound", "aac"),
    (b"MAC ", "Monkey's Audio", "ape"),
    (b"wvpk", "WavPack sound", "wv"),
    (b"TTA1", "True Audio sound", "tta"),
    (b"MPCK", "Musepack sound", "mpc8"),
    (b"MP+", "Musepack sound", "mpc"),
    (b"DSD ", "DSD sound", "dsf"),
    (b".RMF", "RealMedia", "rm"),
    (b".ra\xfd", "RealAudio", "rm"),
    (b"ajkg", "Shorten sound", "shn"),
    (b"\x0b\x77", "AC-3 sound", "ac3"),
)

#: Brands that follow `ftyp` in files of the MPEG-4 family.
_BRANDS = {b"M4A": "M4A", b"M4B": "M4A", b"qt ": "a QuickTime film", b"3gp": "3GP", b"3g2": "3GP"}
#: Box types that begin a file of that family; older cameras write others before or instead of `ftyp`.
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_PROTECTED_BRANDS = (b"aax ", b"aaxc", b"M4P ")
PROTECTED = "it is sound with copy protection (DRM); give a recording without"

#: Names of WAV codecs by their number in the header, for error messages.
_WAV_CODECS = {
    2: "ADPCM",
    0x11: "IMA ADPCM",
    0x31: "GSM",
    0x45: "G.726",
    0x55: "MP3",
    0x160: "WMA",
    0x161: "WMA",
    0xFF: "AAC",
}

_JSON = re.compile(r"\{\s*[\"}]|\[\s*[\[{\"]")
_PAGE = re.compile(r"<(?:!doctype\s+html|html|head|body|script|title|meta)\b", re.IGNORECASE)


def lossless_first(path: Path) -> int:
    """Sort key for recordings of the same sound: lossless formats before MP3 and the like."""
    ending = path.suffix.lower()
    lossless = (".wav", ".flac", ".aiff", ".aif", ".w64", ".caf", ".au")
    return 0 if ending in lossless else 1 if ending in READABLE else 2


def before_films(paths: list[Path]) -> list[Path]:
    """Prefer audio files to video files of the same name; return the videos where there is nothing else.

    Many corpora come as silent videos of faces with the audio in separate files beside them.
    """
    for endings in (("", *READABLE), BY_FFMPEG):
        found = [path for path in paths if ending_of(path.name) in endings]
        if found:
            return found
    return paths


def ending_of(name: str) -> str:
    """The extension of a file name, in lower case, if it is an audio or video one; else the empty string.

    `Path.suffix` would take the `.1` of `a.1` for an extension.
    """
    ending = Path(name).suffix.lower()
    return ending if ending in SOUNDS else ""


def stem(name: str) -> str:
    """A file name without its audio or video extension: `a.1` for `a.1.wav`, and `a.1` for `a.1`."""
    ending = ending_of(name)
    return name[: -len(ending)] if ending else name


def why_unreadable(source: Path | bytes) -> str:
    """Explain in one phrase why a file cannot be decoded: what it is and what to do.

    `source` is the file, or its contents (or their beginning, at least `HEAD_BYTES` of it).

    Raises:
        StorageFailed: nothing is wrong with the file, as far as that can be told.
    """
    if isinstance(source, bytes):
        return what_it_is(source) or _undecodable(source[:HEAD_BYTES])
    try:
        with inside.open_binary(source) as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        return "no such file"
    except (OSError, ValueError) as error:
        storage.check(error, source)
        return str(getattr(error, "strerror", None) or error).lower()
    return what_it_is(head) or _undecodable(head)


def what_it_is(head: bytes) -> str | None:
    """What a file that is not a recording is, and what to do; None when it may be a recording.

    Safe to call before trying to decode: what is named here is never a readable recording.
    """
    head = head[:HEAD_BYTES]
    if not head:
        return "it is empty; get the file again"
    for signature, what, todo in _SIGNATURES:
        if head.startswith(signature):
            return f"it is {what}; {todo}"
    if _is_protected(head):
        return PROTECTED
    if film(head) is not None:
        return None
    if head[:4] == b"RIFF" and head[8:12] not in (b"WAVE", b""):
        return f"it is {'a picture' if head[8:12] == b'WEBP' else 'no WAV inside'}; {_NO_SOUND}"
    if head[257:262] == b"ustar":
        return f"it is a tar archive; {_UNPACK}"
    if not head.strip(b"\0"):
        return "it begins with nothing but zeros, as a copy that was broken off does; get the file again"
    return _text(head)


def _is_protected(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _PROTECTED_BRANDS


def film(head: bytes) -> tuple[str, str] | None:
    """Description and FFmpeg demuxer of a file that FFmpeg reads and soundfile does not; None for all others."""
    if _is_protected(head):
        return None
    for signature, what, demuxer in _FILMS:
        if head.startswith(signature):
            return what, demuxer
    if head[4:8] in _BOXES:
        return _BRANDS.get(head[8:11], "MP4") if head[4:8] == b"ftyp" else "a QuickTime film", "mov"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "an AVI film", "avi"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # twelve set bits and layer 0
        return "AAC sound", "aac"
    if any(head[first : first + 3 * size : size] == b"GGG" for first, size in ((0, 188), (4, 192))):
        return "an MPEG transport stream", "mpegts"
    return None


def is_page(text: str) -> bool:
    """Whether a text is an HTML or XML document."""
    return bool(_PAGE.search(text[:1024])) or text.lstrip("\ufeff \t\r\n").lower().startswith(("<?xml", "<!doctype"))


def _text(head: bytes) -> str | None:
    """Describe a text file: a web page, a server's message, or plain text. None when it is not text."""
    text = _decoded(head)
    if text is None:
        return None
    shown = "".join(c if c.isprintable() else " " for c in text.strip())[:60].strip()
    beginning = text.lstrip("\ufeff \t\r\n")
    if _PAGE.search(beginning[:1024]) or beginning[:2].lower() == "<!":
        return "it is a web page: the download failed; download it again, logged in if need be"
    if beginning.startswith("<"):
        return f"it is an XML message, not the recording ({shown!r}): the download failed; {_AGAIN}"
    if _JSON.match(beginning):
        return f"it is JSON, not the recording ({shown!r}): most often what a failed download leaves; {_AGAIN}"
    return f"it is a text file ({shown!r}); name the recording"


def _decoded(head: bytes) -> str | None:
    """Decode the bytes if they are text: UTF-8 or UTF-16 without control or unassigned characters."""
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)  # the last character may be cut in two
    except UnicodeDecodeError:
        return None
    odd = sum(unicodedata.category(c) in ("Cc", "Cn", "Co") and c not in "\t\r\n\f" for c in text)
    return None if odd or not text.strip() else text


def _undecodable(head: bytes) -> str:
    """Explain why a file that is not recognized as something other than audio may fail to decode."""
    if (found := film(head)) is not None:
        return f"it is {found[0]}, whatever its name says, and cannot be decoded: cut off or damaged; get it again"
    if head[:4] == b"RIFF":
        at = head.find(b"fmt ")
        codec = int.from_bytes(head[at + 8 : at + 10], "little") if at >= 0 else None
        if codec in (None, 1, 3, 0xFFFE):
            return "it is a WAV file with a broken header; export or copy it again, or convert it to FLAC"
        name = _WAV_CODECS.get(codec, f"number {codec}") if codec is not None else ""
        return f"it is a WAV file of a codec that is not read ({name}); {CONVERT}"
    if head[:4] == b"OggS":
        return f"it is Ogg with something other than Vorbis, Opus or FLAC in it, or broken; {CONVERT}"
    if head.startswith(b"NIST_1A"):
        return "it is NIST SPHERE sound of a codec that is not read; convert it with sph2pipe -f wav"
    if head[:4] == b"fLaC" or head[:3] == b"ID3":
        return (
            "its header is that of a recording and what follows cannot be decoded: broken off or damaged; get it again"
        )
    return (
        "soundfile cannot decode it: it begins like no sound file (encrypted, raw samples without a header, damaged); "
        "decrypt it, or convert it to WAV, FLAC, MP3 or OGG"
    )
