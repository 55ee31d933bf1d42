"""What is no speech is not trained on, and nobody who speaks is left out for how they speak or were recorded."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import butter, fftconvolve, istft, sosfilt, stft

from job import prepare
from job.audio.clip import load
from job.audio.speech import Detector, Heard, detector
from job.core import files
from job.core.errors import BadInput, DataRefused
from job.dataset.prepared import read_speakers, read_split, read_summary
from tests.prepare.conftest import Make, voice
from tests.prepare.sounds import RATE, SOUNDS, no_speech


def heard(samples: np.ndarray, rate: int = RATE) -> Heard:
    return detector().listen(samples.astype(np.float32), rate)


def gap(seconds: float, fill: np.ndarray | None = None) -> np.ndarray:
    """A sentence, something else or silence, and another sentence."""
    middle = np.zeros(round(seconds * RATE), np.float32) if fill is None else fill
    return np.concatenate([voice(2.0, seed=5), middle, voice(2.0, seed=12)])


@pytest.mark.parametrize("kind", SOUNDS)
@pytest.mark.parametrize("seconds", [4.0, 9.0])
def test_what_is_no_speech_is_found_out(kind: str, seconds: float) -> None:
    for seed in range(2):
        assert heard(no_speech(kind, seconds, seed)).fault == "no_speech"


def _whispered(wave: np.ndarray) -> np.ndarray:
    """The same vocal tract with breath in the place of the vocal cords: each frame's spectrum with random phases."""
    frames = {"nperseg": 512, "noverlap": 384}
    spectrum = np.abs(stft(wave, **frames)[2])
    smooth = np.apply_along_axis(lambda column: np.convolve(column, np.ones(9) / 9, "same"), 0, spectrum)
    phases = np.exp(2j * np.pi * np.random.default_rng(0).random(smooth.shape))
    return istft(smooth * phases, **frames)[1]


def _noisy(wave: np.ndarray, ratio: float) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(len(wave))
    return wave + wave.std() * 10 ** (-ratio / 20) * noise


def _in_a_hall(wave: np.ndarray) -> np.ndarray:
    echo = np.random.default_rng(0).standard_normal(12_000) * np.exp(-np.arange(12_000) / 2400)
    echo[0] = 8
    return fftconvolve(wave, echo)[: len(wave)]


WAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda wave: wave,
    "noise at 20 dB": lambda wave: _noisy(wave, 20),
    "noise at 5 dB": lambda wave: _noisy(wave, 5),
    "telephone": lambda wave: sosfilt(butter(4, [300, 3400], "band", fs=RATE, output="sos"), wave),
    "whispered": _whispered,
    "soft": lambda wave: np.round(wave / wave.std() * 10 ** (-45 / 20) * 32768) / 32768,
    "fast": lambda wave: soxr.resample(wave, RATE * 1.25, RATE),
    "slow": lambda wave: soxr.resample(wave, RATE * 0.8, RATE),
    "a child's pitch": lambda wave: soxr.resample(wave, RATE * 1.5, RATE),
    "in a hall": _in_a_hall,
    "a third of a second": lambda wave: wave[len(wave) // 2 - 3600 :][:7200],
    "off centre": lambda wave: wave + 0.1,
}


@pytest.mark.parametrize("way", WAYS)
def test_speech_is_kept_however_it_was_said_and_recorded(way: str, clips: list[dict[str, Any]]) -> None:
    lost = [row["text"] for row in clips if heard(WAYS[way](load(Path(row["audio"]), RATE).samples)).fault]
    assert lost == []


def test_clean_sentences_have_no_warning(clips: list[dict[str, Any]]) -> None:
    assert [heard(load(Path(row["audio"]), RATE).samples).warnings() for row in clips] == [[]] * len(clips)


@pytest.mark.parametrize("kind", ["silence", "noise", "rain", "hum", "applause"])
def test_a_long_pause_is_measured_whatever_fills_it(kind: str) -> None:
    for seconds, fault, warnings in [(0.6, None, []), (2.2, None, ["long_pause"]), (4.0, "long_pause", ["long_pause"])]:
        fill = None if kind == "silence" else 0.3 * no_speech(kind, seconds)
        found = heard(gap(seconds, fill))
        assert found.pause == pytest.approx(seconds, abs=0.5)
        assert (found.fault, found.warnings()) == (fault, warnings)


def test_a_word_in_a_hum_is_kept_with_a_warning() -> None:
    music = 0.2 * no_speech("hum", 8.0)
    music[2 * RATE :][:RATE] = voice(1.0, seed=1)
    found = heard(music)
    assert found.fault is None
    assert found.warnings() == ["little_speech"]
    assert found.speech < 0.25


@settings(max_examples=25)
@given(st.integers(1, 30_000), st.integers(8_000, 48_000), st.sampled_from(["noise", "constant", "click"]))
def test_any_clip_has_figures_within_their_bounds(length: int, rate: int, kind: str) -> None:
    wave = {"noise": np.random.default_rng(length).standard_normal(length) * 0.1, "constant": np.full(length, 0.5)}
    click = np.zeros(length)
    click[length // 2] = 1
    found = heard(wave.get(kind, click), rate)
    assert 0 <= found.speech <= 1
    assert 0 <= found.surest <= 1
    assert 0 <= found.pause <= found.seconds


def test_the_figures_do_not_depend_on_threads_and_leave_torchs_as_they_are() -> None:
    waves = [voice(1.0 + n / 3, seed=n) for n in range(8)]
    alone = [heard(wave) for wave in waves]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(heard, waves)) == alone
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        Detector()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def mixed(wav: Callable[..., str]) -> list[dict[str, Any]]:
    """Speech, music, speech with four seconds of nothing, one with two, noise: clean in every other figure."""
    waves = [voice(3.2, seed=1), no_speech("chords", 4.0), gap(4.0), gap(2.0), no_speech("noise", 5.0)]
    more = [voice(3.2, seed=n) for n in range(2, 6)]
    return [{"audio": wav(str(n), wave), "text": f"Sentence {n}."} for n, wave in enumerate([*waves, *more])]


def test_rows_without_speech_are_left_out_and_named_and_none_is_the_reference(
    make: Make, mixed: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make(mixed, ref_audio_strategy="best")
    prepare.run(settings)
    refused = {row["row"]: (row["reason"], row["detail"]) for row in files.read_jsonl(settings.paths.rejected)}
    assert {number: reason for number, (reason, _) in refused.items()} == {
        2: "no_speech",
        3: "long_pause",
        5: "no_speech",
    }
    assert all("QUALITY_GATE=off" in detail and ".wav: " in detail for _, detail in refused.values())
    figures = files.read_json(settings.paths.quality)
    assert figures["warnings"]["long_pause"] == {"rows": 1, "examples": ["train-4"]}
    assert 1 >= figures["speech_share"]["max"] > figures["speech_share"]["min"] > 0.25
    assert 1.5 < figures["longest_pause"]["max"] < 3
    assert "Longest pause" in settings.paths.quality_page.read_text(encoding="utf-8")
    references = read_summary(settings.paths)["speakers"]["speaker"]["references"]
    assert len(references) == 5
    assert mixed[3]["audio"] not in references
    assert "2 rows left out: no_speech" in capsys.readouterr().err


def test_with_the_gate_off_they_are_kept_with_a_warning_and_stand_back_as_reference(
    make: Make, mixed: list[dict[str, Any]]
) -> None:
    """And turning it on again judges them again, though nothing else has changed."""
    settings = make(mixed, ref_audio_strategy="best", quality_gate="off")
    assert prepare.run(settings)["train_rows"] == 9
    warnings = files.read_json(settings.paths.quality)["warnings"]
    assert warnings["no_speech"] == {"rows": 2, "examples": ["train-2", "train-5"]}
    assert warnings["long_pause"]["rows"] == 2
    references = read_summary(settings.paths)["speakers"]["speaker"]["references"]
    assert not set(references) & {mixed[n]["audio"] for n in range(1, 5)}
    assert prepare.run(settings.model_copy(update={"quality_gate": "warn"}))["train_rows"] == 6


def test_data_of_music_alone_is_refused_in_one_line(make: Make, wav: Callable[..., str]) -> None:
    rows = [{"audio": wav(kind, no_speech(kind, 4.0))} for kind in SOUNDS]
    with pytest.raises(DataRefused, match=r"no training row is left of 8: no_speech 8; .*no speech in its 4\.0 s"):
        prepare.run(make(rows))


@pytest.mark.parametrize("variable", ["REF_AUDIO_PATH", "ref_audio"])
def test_a_reference_without_speech_is_refused_before_anything_is_encoded(
    make: Make, wav: Callable[..., str], variable: str
) -> None:
    reference = wav("jingle", no_speech("string", 4.0))
    row = {"audio": wav("a", voice(1.0))}
    values: dict[str, Any] = {"ref_audio_path": reference} if variable == "REF_AUDIO_PATH" else {}
    rows = [row if values else {**row, "ref_audio": reference}]
    settings = make(rows, **values)
    with pytest.raises(BadInput, match=rf"^{variable}: .*jingle\.wav: no speech in it; give a recording of 3 to 10 s"):
        prepare.run(settings)
    assert not list(settings.paths.encoding.glob("*"))
    prepare.run(make(rows, quality_gate="off", work="off", **values))


def test_rows_that_come_encoded_are_not_judged(make: Make, wav: Callable[..., str]) -> None:
    first = make([{"audio": wav("song", no_speech("chords", 4.0))}], quality_gate="off")
    prepare.run(first)
    codes = read_split(first.paths, "train").column("codes")[0].as_py()
    second = make([{"audio_codes": codes}], work="second", ref_audio_path=wav("me", voice(3.0)))
    assert prepare.run(second)["train_rows"] == 1
    assert list(read_speakers(second.paths)) == ["speaker"]
