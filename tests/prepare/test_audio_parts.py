"""A part of a file is exactly the samples between its times, and many parts cost little more than the file."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from job.audio import decode, whole
from job.audio.clip import Unusable, load
from tests.prepare import damage
from tests.prepare.conftest import voice

#: What parts are compared in: the file's own rate, so that nothing is resampled.
KINDS = sorted(set(damage.KINDS))


def make(folder: Path, kind: tuple[str, str], rate: int, seconds: float, channels: int = 1) -> tuple[Path, np.ndarray]:
    """A recording of one kind, and all of its samples, mono, decoded in one go; no part of it is silent."""
    path = folder / f"{'-'.join(kind)}-{rate}.{kind[0].lower()}"
    room = 0.02 * np.random.default_rng(0).standard_normal(round(seconds * rate))
    samples = np.tile((0.9 * voice(seconds, rate) + room).astype(np.float32)[:, None], (1, channels))
    path.write_bytes(damage.encoded(samples, rate, kind))
    return path, load(path, rate).samples


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[Path, np.ndarray]]:
    folder = tmp_path_factory.mktemp("parts")
    return {kind: make(folder, kind, 16_000, 4.0) for kind in KINDS}


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Iterator[None]:
    """Blocks so small that parts span several of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "_BLOCK", 5000)
        yield


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(KINDS), times=st.lists(st.floats(0.0, 3.9), min_size=1, max_size=6), length=st.floats(0.05, 3)
)
def test_a_part_is_the_same_samples_as_in_the_whole_file(
    recordings: dict, kind: tuple[str, str], times: list[float], length: float
) -> None:
    """In any order, of every container and codec, sample for sample."""
    path, samples = recordings[kind]
    for start in times:
        end = min(start + length, 4.0)
        part = load(path, 16_000, start=start, end=end)
        np.testing.assert_array_equal(part.samples, samples[round(start * 16_000) : round(end * 16_000)])


@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS"), ("FLAC", "PCM_16")])
def test_a_part_may_have_only_a_start_or_only_an_end(recordings: dict, kind: tuple[str, str]) -> None:
    path, samples = recordings[kind]
    np.testing.assert_array_equal(load(path, 16_000, start=3.0).samples, samples[48_000:])
    np.testing.assert_array_equal(load(path, 16_000, end=1.0).samples, samples[:16_000])
    np.testing.assert_array_equal(load(path, 16_000, start=0.0, end=4.0).samples, samples[:64_000])


def test_a_part_is_cut_before_it_is_resampled(tmp_path: Path) -> None:
    path, _ = make(tmp_path, ("WAV", "PCM_16"), 44_100, 2.0, channels=2)
    part = load(path, 24_000, start=0.5, end=1.25)
    assert part.figures.seconds == round(0.75 * 44_100) / 44_100
    assert (part.figures.rate, part.figures.channels, len(part.samples)) == (44_100, 2, 18_000)


@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS")])
@pytest.mark.parametrize(("start", "end"), [(4.0, None), (5.0, 6.0), (3.0, 4.2), (None, 1e9), (3.999, 1e300)])
def test_times_that_are_not_in_the_file_are_refused_in_seconds(
    recordings: dict, kind: tuple[str, str], start: float | None, end: float | None
) -> None:
    with pytest.raises(Unusable, match=r"no part from \S+ s to .*: the file has 4.0") as caught:
        load(recordings[kind][0], 16_000, start=start, end=end)
    assert caught.value.reason == "no_such_part"
    assert "\n" not in caught.value.detail


@pytest.mark.parametrize(
    ("start", "end"),
    [
        *[(2.0, 2.0), (2.0, 1.0), (-1.0, 2.0), (math.nan, 1.0), (0.0, math.nan), (1.0, math.inf)],
        *[(math.inf, None), (None, 0.0), (None, -1.0), (-math.inf, None)],
    ],
)
def test_times_that_no_file_has_are_refused(recordings: dict, start: float | None, end: float | None) -> None:
    with pytest.raises(Unusable, match="the end must be after the start") as caught:
        load(recordings["WAV", "PCM_16"][0], 16_000, start=start, end=end)
    assert caught.value.reason == "no_such_part"


def test_an_end_that_was_rounded_up_is_the_files_end(recordings: dict) -> None:
    for path, samples in recordings.values():
        seconds = len(samples) / 16_000
        np.testing.assert_array_equal(load(path, 16_000, start=1.0, end=seconds + 0.09).samples, samples[16_000:])


def test_the_limits_hold_for_the_part_and_not_for_the_file(recordings: dict) -> None:
    for path, _ in recordings.values():
        assert load(path, 16_000, start=1.0, end=2.0, min_seconds=1.0, max_seconds=1.0).figures.seconds == 1.0
        for (start, end), reason in {(1.0, 2.2): "too_long", (1.0, None): "too_long", (1.0, 1.2): "too_short"}.items():
            with pytest.raises(Unusable) as caught:
                load(path, 16_000, start=start, end=end, min_seconds=0.3, max_seconds=1.0)
            assert caught.value.reason == reason


@pytest.mark.parametrize("kind", [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("CAF", "ALAC_16")])
def test_a_long_file_is_checked_and_decoded_once_for_all_its_rows(
    tmp_path: Path, kind: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By threads side by side, as rows are read."""
    path, samples = make(tmp_path, kind, 16_000, 20.0)
    checks, blocks = [], []
    check, put = whole.check, decode._blocks.put
    monkeypatch.setattr(decode, "check", lambda path: checks.append(path) or check(path))
    monkeypatch.setattr(decode._blocks, "put", lambda key, block: blocks.append(key[1]) or put(key, block))

    def read(number: int) -> np.ndarray:
        return load(path, 16_000, start=number / 4, end=number / 4 + 0.25).samples

    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(read, range(80)))
    np.testing.assert_array_equal(np.concatenate(parts), samples[: 20 * 16_000])
    assert len(checks) == 1
    assert len(blocks) == len(set(blocks)) == math.ceil(20 * 16_000 / 5000)


def test_what_is_kept_of_files_is_bounded_and_still_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than are kept open, and more sound than is kept, from several threads in any order."""
    monkeypatch.setattr(decode, "_MOST_BYTES", 100_000)
    made = [make(tmp_path, ("MP3", "MPEG_LAYER_III"), rate, 3.0) for rate in damage.RATES]
    wanted = [(n % 6, start) for n, start in enumerate(np.random.default_rng(0).uniform(0, 2.5, 120))]

    def same(file: int, start: float) -> bool:
        (path, samples), rate = made[file], damage.RATES[file]
        part = load(path, rate, start=start, end=start + 0.4).samples
        return np.array_equal(part, samples[round(start * rate) : round((start + 0.4) * rate)])

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda pair: same(*pair), wanted))
    assert decode._blocks._bytes <= 100_000
    assert decode._blocks._bytes == sum(block.nbytes for block in decode._blocks._kept.values())
    assert len(decode._entries) <= 4


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "again.ogg"
    for rate in (16_000, 24_000):
        path.write_bytes(damage.encoded(voice(2.0, rate), rate, ("OGG", "VORBIS")))
        assert load(path, rate, start=0.5, end=1.0).figures.rate == rate


@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS")])
def test_no_part_of_a_file_that_was_cut_off_is_used(tmp_path: Path, kind: tuple[str, str]) -> None:
    """Also the parts that are there: the times were made for another file than this one is now."""
    path, _ = make(tmp_path, kind, 16_000, 4.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for _ in range(2):
        with pytest.raises(Unusable) as caught:
            load(path, 16_000, start=0.0, end=0.5)
        assert caught.value.reason == "cut_off"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS")])
def test_a_part_of_a_very_long_file_takes_no_memory(
    tmp_path: Path, kind: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two minutes at 48 kHz would take 23 MB; a part at their end takes its own size and the bound."""
    monkeypatch.setattr(decode, "_MOST_BYTES", 2_000_000)
    path = tmp_path / f"long.{kind[0].lower()}"
    with soundfile.SoundFile(path, "w", 48_000, 1, kind[1], format=kind[0]) as file:
        for seed in range(12):
            file.write(voice(10.0, 48_000, seed))
    tracemalloc.start()
    load(path, 48_000, start=118.0, end=119.0, max_seconds=5.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
