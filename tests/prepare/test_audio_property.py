"""Whatever happens to a file on its way here, it is read whole, mended or refused: never read in part in silence."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from job.audio.clip import Unusable, load
from tests.prepare import damage

REFUSED = {"cut_off", "joined", "wrong_header", "unreadable"}


def speech(seconds: float, rate: int, channels: int, seed: int) -> np.ndarray:
    """Something that sounds and changes, float32 (samples, channels)."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 120.0 + 100.0 * random.random() + 20.0 * np.sin(2 * np.pi * 1.3 * time)
    wave = sum(np.sin(2 * np.pi * np.cumsum(pitch) * k / rate) / k for k in range(1, 6))
    wave = wave * (0.6 + 0.4 * np.sin(2 * np.pi * 3.1 * time)) + 0.02 * random.standard_normal(len(time))
    return np.tile((0.2 * wave / max(1.0, np.abs(wave).max()))[:, None], (1, channels)).astype(np.float32)


class Encoded(bytes):
    """A file's content, which a failure does not print."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@st.composite
def files(draw: st.DrawFn) -> tuple[Encoded, float, tuple[str, str], int, int]:
    """(content, seconds, container and codec, rate, channels)."""
    kind = draw(st.sampled_from(damage.KINDS))
    rate = draw(st.sampled_from(damage.OPUS_RATES if kind[1] == "OPUS" else damage.RATES))
    channels = draw(st.integers(1, 2 if kind[0] == "MP3" or "ADPCM" in kind[1] else 3))
    seconds = draw(st.floats(0.4, 2.5))
    samples = speech(seconds, rate, channels, draw(st.integers(0, 1000)))
    return Encoded(damage.encoded(samples, rate, kind)), len(samples) / rate, kind, rate, channels


def outcome(content: bytes) -> float | str:
    """Seconds that are read of a file, or why it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recording")
        path.write_bytes(content)
        try:
            return load(path, 24_000).figures.seconds
        except Unusable as error:
            assert "\n" not in error.detail
            assert str(path) in error.detail
            return error.reason


LIMITS = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))


@LIMITS
@given(files())
def test_a_whole_file_is_read_whole(file: tuple) -> None:
    content, seconds, *_ = file
    assert abs(outcome(content) - seconds) < 0.1


@LIMITS
@given(files(), st.floats(0.05, 0.95))
def test_a_file_that_is_cut_anywhere_is_refused(file: tuple, share: float) -> None:
    content, *_ = file
    assert outcome(content[: int(share * len(content))]) in REFUSED | {"empty"}


@LIMITS
@given(files(), files())
def test_joined_files_are_refused(file: tuple, other: tuple) -> None:
    for second in (file[0], other[0]):
        assert outcome(file[0] + second) in REFUSED


@LIMITS
@given(files(), st.floats(0.1, 0.9))
def test_the_rest_of_a_download_that_is_zeros_is_never_taken_for_sound(file: tuple, share: float) -> None:
    """Whole blocks of zeros that begin within sound: the download's file was made as large as it would become."""
    content, seconds, *_ = file
    there = int(share * len(content)) // 4096 * 4096
    if there < 4096 or (len(content) - there) / len(content) * seconds < 0.3:
        return
    assert outcome(content[:there] + bytes(len(content) - there)) in REFUSED | {"empty", "silent"}


@LIMITS
@given(st.floats(0.4, 2.5), st.sampled_from(damage.RATES), st.integers(0, 1000), st.integers(0, 2**32 - 1))
def test_a_wav_with_any_size_in_its_header_is_read_whole_or_refused(
    seconds: float, rate: int, seed: int, size: int
) -> None:
    content = damage.encoded(speech(seconds, rate, 1, seed), rate, ("WAV", "PCM_16"))
    for number in (size, size % (2 * len(content)), 0, 0xFFFFFFFF):
        found = outcome(damage.with_sizes(content, number))
        assert found in REFUSED or abs(found - seconds) < 0.1
