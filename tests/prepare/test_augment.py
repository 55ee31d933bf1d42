"""Altered copies are what their names say, and only training sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from job import prepare
from job.config.settings import Settings
from job.dataset.prepared import read_split, read_summary, row_codes
from job.prepare.augment import changes
from tests.prepare.conftest import Make, voice

RATE = 24_000
#: librosa compiles for half a minute.
pytestmark = pytest.mark.slow

ALL = dict.fromkeys(("augment_speed", "augment_pitch", "augment_noise", "augment_volume"), True)


def altered(suffix: str, samples: np.ndarray) -> np.ndarray:
    return changes(Settings(**ALL))[suffix](samples, RATE, np.random.default_rng(0))


def tone() -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440.0 * np.arange(2 * RATE) / RATE)).astype(np.float32)


def dominant(samples: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples))))) * RATE / len(samples))


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_another_speed_changes_the_length_and_not_the_pitch(factor: float) -> None:
    fast = altered(f"speed{factor:g}", tone())
    assert len(fast) == pytest.approx(2 * RATE / factor, rel=0.01)
    assert dominant(fast) == pytest.approx(440.0, rel=0.01)


@pytest.mark.parametrize("steps", [-2, 2])
def test_another_pitch_changes_the_pitch_and_not_the_length(steps: int) -> None:
    shifted = altered(f"pitch{steps:+d}", tone())
    assert len(shifted) == 2 * RATE
    assert dominant(shifted) == pytest.approx(440.0 * 2 ** (steps / 12), rel=0.01)


def test_noise_is_25_db_under_the_speech() -> None:
    speech = voice(2.0)
    noise = altered("noise", speech) - speech
    ratio = 10 * np.log10(np.mean(speech**2) / np.mean(noise**2))
    assert ratio == pytest.approx(25.0, abs=0.3)


def test_softer_copies_are_6_db_softer() -> None:
    np.testing.assert_allclose(altered("volume", voice(1.0)), voice(1.0) * 10 ** (-6 / 20), rtol=1e-5)


def test_copies_stay_within_full_scale_and_finite() -> None:
    loud = np.clip(voice(1.0, level=1.0) * 1.5, -1, 1).astype(np.float32)
    for suffix in changes(Settings(**ALL)):
        copy = altered(suffix, loud)
        assert copy.dtype == np.float32
        assert np.abs(copy).max() <= 1.0
        assert np.isfinite(copy).all()


def test_nothing_is_altered_unless_asked_for() -> None:
    assert changes(Settings()) == {}
    assert list(changes(Settings(augment_speed=True))) == ["speed0.9", "speed1.1"]


def test_only_training_rows_have_copies_with_their_text_and_speaker(
    make: Make, wav: Callable[..., str], tmp_path: Any
) -> None:
    rows = [{"audio": wav(f"clip{n}", voice(0.8, seed=n)), "text": f"Text {n}."} for n in range(3)]
    rows.append({"audio_codes": np.random.default_rng(0).integers(0, 2048, (10, 16)).tolist(), "text": "Encoded."})
    settings = make(rows, validation_fraction=0.25, max_seconds=0.85, augment_speed=True, augment_noise=True)
    prepare.run(settings)
    train, validation = read_split(settings.paths, "train"), read_split(settings.paths, "validation")
    held_out = validation.column("id").to_pylist()
    assert len(held_out) == 1
    ids = train.column("id").to_pylist()
    originals = [row_id for row_id in ids if "#" not in row_id]
    assert sorted(originals + held_out) == [f"train-{n}" for n in range(1, 5)]
    recorded = [row_id for row_id in originals if row_id != "train-4"]
    # 0.8 s at 0.9 of the speed is longer than MAX_SECONDS.
    assert ids == originals + [f"{row_id}#{suffix}" for row_id in recorded for suffix in ("speed1.1", "noise")]
    texts = dict(zip(ids, train.column("text").to_pylist(), strict=True))
    assert all(texts[row_id] == texts[row_id.split("#")[0]] for row_id in ids)
    codes = {row_id: row_codes(train, n).tobytes() for n, row_id in enumerate(ids)}
    assert len(set(codes.values())) == len(ids)
    summary = read_summary(settings.paths)
    assert summary["splits"]["train"]["rows"] == len(ids)
    first = (settings.paths.prepared / "train" / "00000.parquet").read_bytes()
    prepare.run(settings)
    assert (settings.paths.prepared / "train" / "00000.parquet").read_bytes() == first
