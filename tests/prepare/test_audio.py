"""Recordings of any format are decoded right, and unusable ones are named as such."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from job.audio import clip
from job.audio.clip import Unusable, load
from tests.prepare.conftest import voice

RATE = 24_000
FORMATS = [
    ("wav", "PCM_U8"),
    ("wav", "PCM_16"),
    ("wav", "PCM_24"),
    ("wav", "FLOAT"),
    ("flac", "PCM_16"),
    ("flac", "PCM_24"),
    ("mp3", "MPEG_LAYER_III"),
    ("ogg", "VORBIS"),
    ("ogg", "OPUS"),
    ("aiff", "PCM_16"),
]

RATES = [8_000, 16_000, 22_050, 24_000, 44_100, 48_000]
OPUS_RATES = [8_000, 16_000, 24_000, 48_000]
CASES = [(*kind, rate) for kind in FORMATS for rate in (OPUS_RATES if kind[1] == "OPUS" else RATES)]


def tone(seconds: float, rate: int, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def dominant(samples: np.ndarray, rate: int = RATE) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


@pytest.mark.parametrize(("suffix", "subtype", "rate"), CASES)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_rate_and_channel_count_gives_the_same_sound(
    tmp_path: Path, suffix: str, subtype: str, rate: int, channels: int
) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, np.tile(tone(1.0, rate)[:, None], (1, channels)), rate, subtype=subtype)
    clip = load(path, RATE)
    assert clip.samples.dtype == np.float32
    assert clip.samples.ndim == 1
    assert len(clip.samples) / RATE == pytest.approx(1.0, abs=0.08)
    assert dominant(clip.samples) == pytest.approx(440.0, abs=2.0)
    assert clip.figures.rms == pytest.approx(-9.03, abs=1.5)
    assert (clip.figures.rate, clip.figures.channels) == (rate, channels)


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_resampling_keeps_the_waveform(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "tone.wav", tone(1.0, rate), rate, subtype="FLOAT")
    middle = slice(RATE // 4, 3 * RATE // 4)
    np.testing.assert_allclose(load(tmp_path / "tone.wav", RATE).samples[middle], tone(1.0, RATE)[middle], atol=2e-4)


def test_resampling_lets_nothing_alias(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "high.wav", tone(1.0, 48_000, 15_000.0) + tone(1.0, 48_000, 1000.0), 48_000, "FLOAT")
    spectrum = np.abs(np.fft.rfft(load(tmp_path / "high.wav", RATE).samples[1000:-1000]))
    aliased = round(9_000 * len(spectrum) / (RATE / 2))
    assert spectrum[aliased - 20 : aliased + 20].max() < spectrum.max() * 1e-3


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(0.5, RATE, 300.0), tone(0.5, RATE, 700.0)
    frames = np.stack([left, right, np.zeros_like(left)], axis=1)
    soundfile.write(tmp_path / "three.wav", frames, RATE, subtype="FLOAT")
    np.testing.assert_allclose(load(tmp_path / "three.wav", RATE).samples, (left + right) / 3, atol=1e-6)


def test_channels_in_opposite_phase_do_not_cancel(tmp_path: Path) -> None:
    left = tone(0.5, RATE)
    soundfile.write(tmp_path / "phase.wav", np.stack([left, -left], axis=1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(load(tmp_path / "phase.wav", RATE).samples, left, atol=1e-6)


def test_float_recordings_over_full_scale_are_scaled_not_clipped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", 6 * tone(0.5, RATE), RATE, subtype="FLOAT")
    clip = load(tmp_path / "loud.wav", RATE)
    np.testing.assert_allclose(clip.samples, 2 * tone(0.5, RATE), atol=1e-3)
    assert "over_full_scale" in clip.figures.warnings()


@pytest.mark.parametrize(
    ("reason", "samples"),
    [
        ("empty", np.zeros(0)),
        ("silent", np.zeros(RATE)),
        ("silent", np.full(RATE, 0.25)),
        ("silent", tone(1.0, RATE) * 1e-3),
        ("too_short", tone(0.29, RATE)),
        ("too_long", tone(2.5, RATE)),
        ("not_finite", np.r_[tone(0.5, RATE), np.nan, tone(0.5, RATE)]),
        ("not_finite", np.r_[tone(0.5, RATE), np.inf, tone(0.5, RATE)]),
    ],
)
def test_unusable_recordings_are_left_out_for_the_right_reason(
    tmp_path: Path, reason: str, samples: np.ndarray
) -> None:
    soundfile.write(tmp_path / "bad.wav", samples.astype(np.float32), RATE, subtype="FLOAT")
    with pytest.raises(Unusable) as caught:
        load(tmp_path / "bad.wav", RATE, min_seconds=0.3, max_seconds=2.0)
    assert caught.value.reason == reason
    assert "bad.wav" in caught.value.detail
    assert "\n" not in caught.value.detail


@pytest.mark.parametrize("content", [b"", b"not audio at all", b"\0\0\0\x20ftypM4A " + bytes(64), b"RIFF\0\0"])
def test_files_that_are_no_audio_are_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.m4a").write_bytes(content)
    with pytest.raises(Unusable) as caught:
        load(tmp_path / "bad.m4a", RATE)
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(("ending", "left"), [("wav", 0.5), ("wav", 0.97), ("aiff", 0.5), ("flac", 0.5), ("mp3", 0.5)])
def test_a_file_that_was_cut_off_is_left_out(tmp_path: Path, ending: str, left: float) -> None:
    """libsndfile reads what is there without a word; half a recording does not say what its text says."""
    path = tmp_path / f"cut.{ending}"
    soundfile.write(path, voice(1.0), RATE)
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    with pytest.raises(Unusable, match=r"cut off: 0\.\d\d of 1\.\d\d s are there; copy it again") as caught:
        load(path, RATE)
    assert caught.value.reason == "cut_off"


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF - 36, 48_050])
def test_a_header_that_does_not_know_the_size_is_no_cut(tmp_path: Path, size: int) -> None:
    """Programs that write to a pipe put the largest number; others are some bytes off."""
    path = tmp_path / "stream.wav"
    soundfile.write(path, tone(1.0, RATE), RATE, subtype="PCM_16")
    contents = bytearray(path.read_bytes())
    place = contents.index(b"data") + 4
    contents[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(contents)
    assert load(path, RATE).figures.seconds == pytest.approx(1.0, abs=0.01)


def test_a_file_that_cannot_be_read_is_left_out_with_the_systems_reason(tmp_path: Path) -> None:
    """A directory in its place, a read error of the disk, a path that leads to itself."""
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    wanted = {tmp_path / "folder.wav": "is a directory", tmp_path / "loop.wav": "too many levels of symbolic links"}
    if Path("/proc/self/mem").exists():
        wanted[Path("/proc/self/mem")] = "input/output error"
    for path, reason in wanted.items():
        with pytest.raises(Unusable, match=f"^{path}: {reason}$") as caught:
            load(path, RATE)
        assert caught.value.reason == "unreadable"


def test_a_file_without_permission_is_left_out(tmp_path: Path) -> None:
    """Nobody may read it, whoever runs this: a process of its own gives up being root."""
    path = tmp_path / "private.wav"
    soundfile.write(path, tone(1.0, RATE), RATE)
    path.chmod(0)

    def read() -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            load(path, RATE)
        except Unusable as error:
            os._exit(0 if error.reason == "unreadable" and error.detail.endswith("permission denied") else 1)
        os._exit(2)

    child = multiprocessing.get_context("fork").Process(target=read)
    child.start()
    child.join()
    assert child.exitcode == 0


def test_a_missing_file_is_unreadable_and_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="no such file") as caught:
        load(tmp_path / "gone.wav", RATE)
    assert caught.value.reason == "unreadable"


def test_the_limits_themselves_are_allowed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "edge.wav", tone(0.5, RATE), RATE)
    assert load(tmp_path / "edge.wav", RATE, min_seconds=0.5, max_seconds=0.5).figures.seconds == 0.5


@pytest.mark.parametrize(
    ("warning", "samples", "rate"),
    [
        ("clipped", np.clip(4 * tone(1.0, RATE), -1, 1), RATE),
        ("low_sample_rate", tone(1.0, 8_000), 8_000),
        ("dc_offset", 0.5 * tone(1.0, RATE) + 0.1, RATE),
        ("long_silence", np.r_[np.zeros(2 * RATE), tone(1.0, RATE)], RATE),
        ("long_silence", np.r_[tone(1.0, RATE), np.zeros(2 * RATE)], RATE),
    ],
)
def test_doubtful_recordings_are_kept_with_a_warning(
    tmp_path: Path, warning: str, samples: np.ndarray, rate: int
) -> None:
    soundfile.write(tmp_path / "doubtful.wav", samples, rate)
    assert load(tmp_path / "doubtful.wav", RATE).figures.warnings() == [warning]


def test_good_speech_has_no_warning(clips: list[dict[str, str]]) -> None:
    assert [load(Path(row["audio"]), RATE).figures.warnings() for row in clips] == [[]] * len(clips)


def test_speech_to_noise_ranks_recordings_by_their_noise(tmp_path: Path) -> None:
    bursts = voice(3.0) * np.repeat([1, 0, 1, 0, 1, 1], RATE // 2)
    ratios = []
    for level in (0.0005, 0.005, 0.05):
        noisy = bursts + level * np.random.default_rng(0).standard_normal(len(bursts))
        soundfile.write(tmp_path / "noisy.wav", noisy, RATE)
        ratios.append(load(tmp_path / "noisy.wav", RATE).figures.snr)
    assert ratios[0] > ratios[1] + 10 > ratios[2] + 20


@pytest.mark.parametrize("length", [0, 1, 1919, 1920, 1921, 5000])
def test_clips_are_padded_with_zeros_to_whole_frames(length: int) -> None:
    padded = clip.pad_to_frames(np.ones(length, np.float32), 1920)
    assert len(padded) % 1920 == 0
    assert len(padded) >= 1920
    assert len(padded) - length < 1920 or length == 0
    assert padded.sum() == length


@pytest.mark.parametrize(
    ("text", "seconds", "mismatch"),
    [
        ("Hello there, how are you today?", 2.0, False),
        ("你好，今天天气很好。", 2.5, False),
        ("Рентгеноэлектрокардиография", 2.0, False),
        ("No.", 1.5, False),
        ("1984", 2.0, False),
        ("a" * 500, 2.0, True),
        ("Hi", 20.0, True),
    ],
)
def test_only_impossible_lengths_of_text_are_reported_in_any_script(text: str, seconds: float, mismatch: bool) -> None:
    assert clip.text_mismatch(text, seconds) is mismatch
