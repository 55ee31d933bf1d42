"""A file that cannot be decoded is called what it is: advice to convert a web page sends people the wrong way."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from job.audio import audio_files
from job.audio.clip import Unusable, load
from job.core.errors import BadInput
from tests.fetch.conftest import write_audio, write_lines

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132300\n"


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.wav", b"x")
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.wav"))
    return buffer.getvalue()


def wav_of_codec(number: int) -> bytes:
    header = struct.pack("<HHIIHH", number, 1, 16000, 2000, 1, 0)
    return (
        b"RIFF" + struct.pack("<I", 100) + b"WAVEfmt " + struct.pack("<I", 16) + header + b"data\x08\0\0\0" + b"x" * 8
    )


FILES = {
    "lfs": (LFS, r"git-LFS pointer.*git lfs pull"),
    "annex": (b"/annex/objects/SHA256E-s3--0.wav\n", r"git-annex pointer.*git annex get"),
    "page": (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>", r"web page: the download failed"),
    "page without a doctype": (b"\n\n  <HTML lang=nb><body>404", r"web page"),
    "page after a comment": (b"<!-- cache --><head></head>", r"web page"),
    "s3": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", r"XML message.*AccessDenied"),
    "json": (b'{"error": "Repository not found"}', r"JSON.*Repository not found.*download"),
    "json array": (b'[{"detail": "rate limited"}]', r"JSON.*rate limited"),
    "text": (b"Her kommer lyden snart.\n", r"text file \('Her kommer lyden snart\.'\)"),
    "utf-16 text": ("Zdravo, svijete".encode("utf-16"), r"text file"),
    "empty": (b"", r"empty; get the file again"),
    "zip": (zipped(), r"ZIP archive; unpack"),
    "gzip": (gzip.compress(b"x" * 99), r"gzip archive; unpack"),
    "tar": (tarred(), r"tar archive; unpack"),
    "rar": (b"Rar!\x1a\x07\x01\0" + b"\x33\xf1" * 40, r"RAR archive; unpack"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\x04" + b"\x91" * 40, r"7-Zip archive; unpack"),
    "openssl": (b"Salted__" + bytes(range(200, 256)), r"encrypted; decrypt"),
    "age": (b"age-encryption.org/v1\n-> X25519 abc\n", r"encrypted; decrypt"),
    "gpg": (b"\x8c\x0d\x04\x09\x03\x02" + b"\xd1\x8f" * 40, r"encrypted; decrypt"),
    "armoured": (b"-----BEGIN PGP MESSAGE-----\n\nhQEMA", r"encrypted; decrypt"),
    "m4a": (b"\0\0\0\x1cftypM4A \0\0\0\0M4A mp42isom", r"M4A whose index \(moov\) is missing"),
    "mp4": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", r"MP4 whose index \(moov\) is missing"),
    "mov": (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", r"QuickTime film whose index \(moov\) is missing"),
    "drm": (b"\0\0\0\x1cftypaax \0\0\0\x01aax M4B ", r"copy protection"),
    "webm": (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01", r"WebM or Matroska.*cut off or damaged"),
    "avi": (b"RIFF\x24\0\0\0AVI LIST", r"cut off"),
    "aac": (b"\xff\xf1\x50\x80\x02\x1f\xfc" + b"\x21\x10" * 40, r"cut off or damaged"),
    "wma": (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), r"cut off|Windows Media"),
    "zeros": (b"\0" * 9000, r"zeros.*get the file again"),
    "noise": (bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)), r"encrypted, raw samples"),
    "codec": (wav_of_codec(0x161), r"codec that is not read \(WMA\).*ffmpeg"),
    "unknown codec": (wav_of_codec(0x2000), r"codec that is not read \(number 8192\)"),
    "cut flac": (b"fLaC\0\0\0\x22\x10", r"broken off or damaged"),
}


@pytest.mark.parametrize("kind", FILES)
def test_prepare_and_fetch_call_a_file_what_it_is(tmp_path: Path, kind: str) -> None:
    content, expected = FILES[kind]
    path = tmp_path / "clip one.wav"
    path.write_bytes(content)
    with pytest.raises(Unusable, match=expected) as caught:
        load(path, 24000)
    assert "\n" not in caught.value.detail
    if content:
        from job import fetch
        from job.config import settings

        rows = write_lines(tmp_path / "t.jsonl", [{"audio": path.name, "text": "x"}])
        with pytest.raises(BadInput, match=rf"row 1: audio cannot be read: clip one\.wav: .*{expected}"):
            fetch.check(settings.load({"TRAIN_JSONL": str(rows), "WORK_DIR": str(tmp_path / "w")}))


@given(head=st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_any_contents_get_one_line(head: bytes) -> None:
    said = audio_files.why_unreadable(head)
    assert said and "\n" not in said and len(said) < 300


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "ogg", "aiff", "au", "caf", "w64"])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_no_recording_is_called_something_else(tmp_path: Path, ending: str, rate: int) -> None:
    path = write_audio(tmp_path / f"a.{ending}", rate=rate, seed=rate)
    assert audio_files.what_it_is(path.read_bytes()) is None


@pytest.mark.parametrize("subtype", ["PCM_U8", "FLOAT", "ULAW", "IMA_ADPCM"])
def test_no_wav_that_soundfile_writes_is_called_something_else(tmp_path: Path, subtype: str) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(9000), 16000, subtype=subtype)
    assert audio_files.what_it_is((tmp_path / "a.wav").read_bytes()) is None


@pytest.mark.parametrize(
    ("name", "stem", "ending"),
    [("a.1", "a.1", ""), ("a.1.WAV", "a.1", ".wav"), ("Dr. Foo", "Dr. Foo", ""), ("x.mkv", "x", ".mkv"), ("", "", "")],
)
def test_dots_in_names_are_no_endings(name: str, stem: str, ending: str) -> None:
    assert (audio_files.stem(name), audio_files.ending_of(name)) == (stem, ending)
