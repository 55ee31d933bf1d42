"""Files as copies, recorders, streams and joiners leave them: whole ones are read whole, the others refused by name."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from job.audio import mpeg
from job.audio.clip import Figures, Unusable, load
from tests.prepare import damage
from tests.prepare.conftest import voice

RATE = 24_000
SECONDS = 3.0
ID3 = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
NOTES = b"LIST\x0a\0\0\0INFOabcdef"


def made(format: str, subtype: str = "PCM_16", rate: int = RATE, channels: int = 1, seed: int = 0) -> bytes:
    samples = np.tile(voice(SECONDS, rate, seed)[:, None], (1, channels))
    return damage.encoded(samples, rate, (format, subtype))


def read(folder: Path, content: bytes) -> Figures:
    path = folder / "recording"
    path.write_bytes(content)
    return load(path, RATE).figures


def refusal(folder: Path, content: bytes) -> tuple[str, str]:
    with pytest.raises(Unusable) as caught:
        read(folder, content)
    assert "\n" not in caught.value.detail
    assert caught.value.detail.startswith(str(folder / "recording"))
    return caught.value.reason, caught.value.detail


def replaced(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


@pytest.mark.parametrize(("sound", "file"), [(0, 0), (0, None), (0xFFFFFFFF, 0), (0, 36)])
def test_a_wav_whose_recorder_crashed_is_mended_and_said(tmp_path: Path, sound: int, file: int | None) -> None:
    figures = read(tmp_path, damage.with_sizes(made("WAV"), sound, file))
    assert (figures.seconds, figures.warnings()) == (SECONDS, ["header_mended"])


@pytest.mark.parametrize(("sound", "file"), [(0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFFFDB, 0x7FFFFFFF), (0x7FFFFFF7, None)])
def test_a_wav_written_to_a_pipe_is_whole(tmp_path: Path, sound: int, file: int | None) -> None:
    figures = read(tmp_path, damage.with_sizes(made("WAV"), sound, file))
    assert (figures.seconds, figures.warnings()) == (SECONDS, [])


def unfinished() -> dict[str, bytes]:
    """Files of each container with the size that was never filled in."""
    aiff, au, caf, rf64, w64 = (made(kind) for kind in ("AIFF", "AU", "CAF", "RF64", "W64"))
    large = rf64.index(b"ds64")
    return {
        "AIFF": replaced(replaced(aiff, aiff.index(b"SSND") + 4, bytes(4)), aiff.index(b"COMM") + 10, bytes(4)),
        "AU": replaced(au, 8, bytes(4)),
        "CAF": replaced(caf, caf.index(b"data") + 4, bytes(8)),
        "RF64": replaced(rf64, large + 8, bytes(24)),
        "W64": replaced(w64, w64.index(b"data") + 16, bytes(8)),
    }


@pytest.mark.parametrize("kind", ["AIFF", "AU", "CAF", "RF64", "W64"])
def test_other_containers_with_an_unfinished_header_are_mended_too(tmp_path: Path, kind: str) -> None:
    figures = read(tmp_path, unfinished()[kind])
    assert (figures.seconds, figures.warnings()) == (SECONDS, ["header_mended"])


def test_containers_that_say_they_do_not_know_their_size_are_whole(tmp_path: Path) -> None:
    caf, au, flac = made("CAF"), made("AU"), made("FLAC")
    streamed = [
        replaced(caf, caf.index(b"data") + 4, b"\xff" * 8),
        replaced(au, 8, b"\xff" * 4),
        damage.without_total(flac),
        damage.without_total(flac) + b"TAG" + bytes(125),
    ]
    for content in streamed:
        figures = read(tmp_path, content)
        assert (figures.seconds, figures.warnings()) == (SECONDS, [])


def test_a_header_that_promises_less_than_is_there_is_refused(tmp_path: Path) -> None:
    """One recording appended to another, or a header that was not updated: the first words are not the row's."""
    aiff, au, caf, w64, flac = (made(kind) for kind in ("AIFF", "AU", "CAF", "W64", "FLAC"))
    wrong = [
        damage.with_sizes(made("WAV"), RATE * 2),
        damage.with_sizes(made("WAV"), RATE * 2, RATE * 2 + 36),
        replaced(aiff, aiff.index(b"SSND") + 4, struct.pack(">I", RATE * 2 + 8)),
        replaced(aiff, aiff.index(b"COMM") + 10, struct.pack(">I", RATE)),
        replaced(au, 8, struct.pack(">I", RATE * 2)),
        replaced(caf, caf.index(b"data") + 4, struct.pack(">q", RATE * 2 + 4)),
        replaced(w64, w64.index(b"data") + 16, struct.pack("<Q", RATE * 2 + 24)),
        replaced(flac, 22, struct.pack(">I", RATE)),
    ]
    for content in wrong:
        reason, detail = refusal(tmp_path, content)
        assert reason == "wrong_header"
        assert "the header says 1.00 s and 3.00 s are there; export it again" in detail


@pytest.mark.parametrize("name", [b"LIST", b"id3 ", b"bext", b"iXML", b"abcd"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ALAW"])
def test_chunks_behind_the_sound_are_harmless(tmp_path: Path, name: bytes, subtype: str) -> None:
    content = damage.encoded(voice(SECONDS)[:-1], RATE, ("WAV", subtype))
    chunk = name + struct.pack("<I", 9) + b"something\0"
    for behind in (chunk, chunk + chunk, bytes(len(content) % 2) + chunk, chunk[:12], b"TAG" + bytes(125), bytes(9000)):
        figures = read(tmp_path, content + behind)
        assert (figures.seconds, figures.warnings()) == (SECONDS - 1 / RATE, [])


def test_an_empty_recording_is_empty_and_not_its_notes(tmp_path: Path) -> None:
    empty = made("WAV")[:44]
    for content in (damage.with_sizes(empty, 0, 36), damage.with_sizes(empty, 0, 54) + NOTES):
        assert refusal(tmp_path, content)[0] == "empty"


@pytest.mark.parametrize("format", ["WAV", "RF64", "AIFF", "CAF", "AU", "W64", "FLAC", "NIST"])
def test_a_copy_that_lacks_its_end_says_how_many_seconds(tmp_path: Path, format: str) -> None:
    content = made(format)
    for share in (0.2, 0.5, 0.95, 0.98):
        reason, detail = refusal(tmp_path, content[: int(share * len(content))])
        assert reason == "cut_off"
        assert "of 3.00 s are there; copy it again" in detail


@pytest.mark.parametrize("format", ["WAV", "AIFF", "AU", "W64"])
def test_a_few_missing_bytes_are_no_loss(tmp_path: Path, format: str) -> None:
    assert read(tmp_path, made(format)[:-50]).seconds == pytest.approx(SECONDS, abs=0.01)


def test_streamed_files_that_were_joined_are_refused(tmp_path: Path) -> None:
    """Headers without a size would make the second file's header, and its sound, part of the first."""
    streamed = damage.with_sizes(made("WAV"), 0xFFFFFFFF, 0xFFFFFFFF)
    flac = damage.without_total(made("FLAC"))
    for content in (streamed * 2, streamed + made("WAV"), damage.with_sizes(made("WAV"), 0, 0) * 2, flac * 2):
        assert refusal(tmp_path, content)[0] == "joined"


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_streams_with_their_end_are_whole(tmp_path: Path, subtype: str) -> None:
    """Also when positions do not begin at 0, an index stands in front, or junk around it."""
    content = made("OGG", subtype)
    junk = np.random.default_rng(0).bytes(3000)
    for whole in (
        damage.ogg_shifted(content, 5_000_000),
        damage.with_skeleton(content),
        content + junk,
        junk + content,
        ID3 + content,
    ):
        assert read(tmp_path, whole).seconds == pytest.approx(SECONDS, abs=0.01)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_streams_without_an_end_or_with_missing_pages_are_refused(tmp_path: Path, subtype: str) -> None:
    pages = damage.ogg_pages(made("OGG", subtype))
    open_end = [bytearray(page) for page in pages]
    open_end[-1][5] &= ~4
    flipped = bytearray(b"".join(pages))
    flipped[-5000] ^= 0xFF
    broken = [
        b"".join(pages[:-1]),
        damage.ogg_joined(open_end),
        b"".join(pages[:-2] + pages[-1:]),
        b"".join(pages[:3] + pages[4:]),
        b"".join(pages[:4]) + bytes(len(pages[4])) + b"".join(pages[5:]),
        bytes(flipped),
        b"".join(pages[:-1]) + pages[-1][: len(pages[-1]) // 2].ljust(len(pages[-1]), b"\0"),
    ]
    for content in broken:
        reason, detail = refusal(tmp_path, content)
        assert (reason, "again" in detail) == ("cut_off", True)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg_streams_are_refused(tmp_path: Path, subtype: str) -> None:
    content, other = made("OGG", subtype), made("OGG", subtype, seed=1)
    for second in (content, other):
        reason, detail = refusal(tmp_path, content + second)
        assert (reason, "after 3.0" in detail) == ("joined", True)


MP3S = [(RATE, 1), (44_100, 2), (8_000, 1), (48_000, 2), (11_025, 2), (32_000, 1)]


@pytest.mark.parametrize(("rate", "channels"), MP3S)
def test_an_mp3_without_a_count_of_its_frames_is_read_to_its_end(tmp_path: Path, rate: int, channels: int) -> None:
    """Its length was guessed from the first frame's bitrate: of a variable bitrate less than half was read."""
    counted = made("MP3", "MPEG_LAYER_III", rate, channels)
    bare = damage.without_count(counted)
    junk = np.random.default_rng(0).bytes(5000)
    for content in (
        counted,
        bare,
        bare + junk,
        junk[:300] + bare,
        bytes(3000) + counted,
        b"HTTP/1.1 200 OK\r\n\r\n" + counted,
        ID3 + bytes(3000) + bare,
        bare + b"APETAGEX" + junk,
        bare + b"TAG" + bytes(125),
        counted + bytes(5000),
    ):
        assert read(tmp_path, content).seconds == pytest.approx(SECONDS, abs=0.11)


@pytest.mark.parametrize(("rate", "channels"), MP3S)
def test_mp3s_that_are_cut_or_joined_are_refused(tmp_path: Path, rate: int, channels: int) -> None:
    counted = made("MP3", "MPEG_LAYER_III", rate, channels)
    bare = damage.without_count(counted)
    places = damage.mp3_frames(counted)
    middle = places[len(places) // 2]
    bare_middle = middle - places[1]
    hole = bytes(places[len(places) // 2 + 6] - middle)
    reasons = {
        "cut between frames": (counted[:middle], "cut_off"),
        "cut in a frame": (counted[: middle + 20], "cut_off"),
        "cut in a frame, not counted": (bare[: bare_middle + 20], "cut_off"),
        "zeros for the rest": (bare[:bare_middle] + bytes(9000), "cut_off"),
        "zeros for the rest, counted": (counted[:middle] + bytes(9000), "cut_off"),
        "hole": (bare[:bare_middle] + hole + bare[bare_middle + len(hole) :], "cut_off"),
        "joined": (counted + counted, "joined"),
        "joined with a counted one": (bare + counted, "joined"),
        "joined with one that is not counted": (counted + bare, "wrong_header"),
        "a tag in the middle": (bare[:bare_middle] + ID3 + bare[bare_middle:], "joined"),
        "an old tag in the middle": (bare + b"TAG" + bytes(125) + bare, "joined"),
        "another rate": (bare + damage.without_count(made("MP3", "MPEG_LAYER_III", 16_000)), "joined"),
    }
    assert {name: refusal(tmp_path, content)[0] for name, (content, _) in reasons.items()} == {
        name: reason for name, (_, reason) in reasons.items()
    }


def test_headers_of_mp3_frames_say_what_the_standard_says() -> None:
    """Layers, versions, bitrates and padding; what is no header is none."""
    assert mpeg.parse(bytes.fromhex("fffb9000")) == mpeg.Frame(417, 1152, 44_100, 36, (15, 44_100))
    assert mpeg.parse(bytes.fromhex("fffb9264")) == mpeg.Frame(418, 1152, 44_100, 36, (15, 44_100))
    assert mpeg.parse(bytes.fromhex("fff344c4")) == mpeg.Frame(96, 576, 24_000, 13, (11, 24_000))
    for none in ("ffffffff", "fffb0000", "fffbf000", "ffeb9000", "fffb9c00", "fff99000", "00000000", "fffb", ""):
        assert mpeg.parse(bytes.fromhex(none)) is None


def test_zeros_that_begin_in_a_word_are_a_download_that_broke_off(tmp_path: Path) -> None:
    """And silence that was added behind the last word is kept, also where it begins on a block by chance."""
    content = made("WAV")
    place = len(content) // 2 // 4096 * 4096
    assert refusal(tmp_path, content[:place] + bytes(len(content) - place))[0] == "cut_off"
    faded = voice(SECONDS)
    quiet = (place - 44) // 2
    faded[quiet - 2400 : quiet] *= np.linspace(1, 0, 2400, dtype=np.float32) ** 3
    faded[quiet:] = 0
    assert read(tmp_path, damage.encoded(faded, RATE, ("WAV", "PCM_16"))).seconds == SECONDS


@pytest.mark.parametrize("format", ["VOC", "PAF", "AVR", "IRCAM", "SVX"])
def test_formats_of_which_nobody_can_say_whether_they_are_whole_are_refused(tmp_path: Path, format: str) -> None:
    reason, detail = refusal(tmp_path, made(format))
    assert (reason, "convert it to WAV or FLAC" in detail) == ("unreadable", True)
