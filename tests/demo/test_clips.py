"""The embedded clips keep the limits that the demo and the other tests rely on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from job.demo import clips_directory, manifest

MEGABYTE = 1 << 20


def samples(row: dict[str, str]) -> tuple[NDArray[np.float32], int]:
    wave, rate = soundfile.read(row["audio"], dtype="float32")
    return wave, rate


def test_every_row_names_a_clip_and_every_clip_has_a_row() -> None:
    rows = manifest()
    assert {Path(row["audio"]) for row in rows} == set(clips_directory().glob("*.flac"))
    assert len(rows) >= 12
    for row in rows:
        assert set(row) == {"audio", "text", "speaker", "language"}
        assert row["text"].strip() == row["text"] != ""


def test_texts_are_distinct_so_that_recitation_can_tell_them_apart() -> None:
    texts = [row["text"].casefold() for row in manifest()]
    assert len(set(texts)) == len(texts)


def test_two_voices_and_two_languages() -> None:
    rows = manifest()
    assert len({row["speaker"] for row in rows}) == 2
    assert {row["language"] for row in rows} == {"English", "German"}


def test_clips_are_24_khz_mono_16_bit_flac() -> None:
    for row in manifest():
        info = soundfile.info(row["audio"])
        assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 24_000, 1)


def test_lengths_spread_from_half_a_second_to_six_with_several_short_ones() -> None:
    seconds = sorted(len(wave) / rate for wave, rate in map(samples, manifest()))
    assert 0.5 <= seconds[0] < 0.7
    assert 5.0 < seconds[-1] <= 6.0
    assert sum(length < 1.0 for length in seconds) >= 5
    assert sum(seconds) < 35.0


def test_clips_are_loud_enough_unclipped_and_without_long_silence() -> None:
    for row in manifest():
        wave, rate = samples(row)
        assert abs(20 * np.log10(np.abs(wave).max()) + 3.0) < 0.1, row["audio"]
        window = rate // 50
        frames = wave[: len(wave) // window * window].reshape(-1, window)
        loud = np.flatnonzero(np.sqrt(np.square(frames).mean(1)) > 0.005)
        assert loud[0] * 0.02 < 0.15, f"{row['audio']} starts with silence"
        assert (len(frames) - 1 - loud[-1]) * 0.02 < 0.3, f"{row['audio']} ends with silence"
        assert np.diff(loud).max() * 0.02 < 0.5, f"{row['audio']} has a long pause"


def test_folder_stays_under_two_megabytes() -> None:
    assert sum(path.stat().st_size for path in clips_directory().iterdir()) < 2 * MEGABYTE
