"""Many people under one name are found out, and one person in many moods is not taken for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import butter, sosfilt

from job import prepare
from job.core import files
from job.core.errors import DataRefused
from job.dataset.prepared import read_summary
from job.prepare import one_voice
from job.prepare.clips import best_clips
from job.prepare.one_voice import spread
from tests.prepare.conftest import Make, voice

RATE = 24_000


def person(number: int, seconds: float = 3.0) -> np.ndarray:
    """Somebody else for each number: another pitch, and another vocal tract's resonance."""
    random = np.random.default_rng(number)
    factor = (0.65, 0.8, 1.0, 1.25, 1.5, 1.8)[number % 6] * (1 + 0.05 * random.random())
    wave = soxr.resample(voice(seconds * factor + 1, seed=number), RATE, RATE / factor)[: int(seconds * RATE)]
    low = random.uniform(300, 2500)
    wave = wave + 12 * random.random() * sosfilt(butter(2, [low, low * 1.7], "band", fs=RATE, output="sos"), wave)
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


@pytest.fixture
def crowd(wav: Callable[..., str]) -> list[dict[str, Any]]:
    """A sentence each of sixteen people."""
    return [{"audio": wav(f"p{n}", person(n)), "text": f"Sentence {n}."} for n in range(16)]


@pytest.fixture
def narrator(wav: Callable[..., str]) -> list[dict[str, Any]]:
    """Sixteen sentences of one, at sixteen speeds and pitches."""
    return [{"audio": wav(f"n{n}", voice(3.0, seed=n)), "text": f"Sentence {n}."} for n in range(16)]


def test_many_people_without_names_are_refused_and_the_line_says_what_to_name(
    make: Make, crowd: list[dict[str, Any]]
) -> None:
    settings = make(crowd)
    with pytest.raises(DataRefused, match=r"many voices.*SPEAKER_COLUMN=.*SPEAKER_NAME=") as caught:
        prepare.run(settings)
    assert caught.value.exit_code == 3
    figures = files.read_json(settings.paths.quality)["voices"]["speaker"]
    assert (figures["voices"], figures["clips"]) == ("many", 16)
    assert figures["similarity_between_clips"] < figures["similarity_within_clips"]
    assert "many voices" in settings.paths.quality_page.read_text(encoding="utf-8")


@pytest.mark.parametrize("named", ["variable", "column"])
def test_who_names_them_is_only_warned(
    make: Make, crowd: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], named: str
) -> None:
    rows = [{**row, "speaker": "Anna"} for row in crowd] if named == "column" else crowd
    prepare.run(make(rows, **({"speaker_name": "anna"} if named == "variable" else {})))
    assert "speaker 'anna' sounds like many voices" in capsys.readouterr().err


def test_one_narrator_is_one_voice(make: Make, narrator: list[dict[str, Any]], capsys: Any) -> None:
    settings = make(narrator)
    prepare.run(settings)
    assert files.read_json(settings.paths.quality)["voices"]["speaker"]["voices"] == "one"
    assert "sounds like" not in capsys.readouterr().err


def test_few_clips_or_short_ones_say_nothing(make: Make, wav: Callable[..., str], crowd: list[dict[str, Any]]) -> None:
    short = [{"audio": wav(f"s{n}", person(n, 1.5)), "text": f"Word {n}."} for n in range(8)]
    settings = make([*crowd[:11], *short])
    prepare.run(settings)
    assert files.read_json(settings.paths.quality)["voices"] == {}


def vectors(people: list[int], apart: float, *, wobble: float = 0.35, seed: int = 0, rooms: int = 1) -> np.ndarray:
    """x-vectors (clips, 2, 64): each clip's person, room and content, and what differs between its halves."""
    random = np.random.default_rng(seed)
    who, where = random.standard_normal((100, 64)), random.standard_normal((rooms, 64))
    common = 2 * random.standard_normal(64)
    made = []
    for number, one in enumerate(people):
        clip = common + apart * who[one] + 0.4 * wobble * random.standard_normal(64)
        clip = clip + (0.5 * where[number % rooms] if rooms > 1 else 0)
        made.append(clip + wobble * random.standard_normal((2, 64)))
    return np.array(made, dtype=np.float32)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(12, 32), st.sampled_from([1, 2]))
def test_one_voice_is_never_many_and_a_crowd_always_is(seed: int, clips: int, rooms: int) -> None:
    """Whatever the encoder's scale; also one voice in two rooms."""
    assert spread(vectors([0] * clips, 1.0, seed=seed, rooms=rooms)).voices != "many"
    assert spread(vectors(list(range(clips)), 1.0, seed=seed)).voices == "many"


@pytest.mark.parametrize("people", [2, 3, 5])
def test_a_few_voices_are_at_least_said(people: int) -> None:
    assert spread(vectors([n % people for n in range(30)], 1.0)).voices in ("several", "many") or people == 2
    assert spread(vectors([n % people for n in range(30)], 1.0)).apart > 0.4


def test_clips_of_another_voice_are_found_among_a_speakers_own() -> None:
    people = [0] * 30
    people[4] = people[17] = 1
    assert spread(vectors(people, 1.0)).others == [4, 17]
    assert spread(vectors([0] * 30, 1.0)).others == []


def test_another_voice_is_named_and_is_no_reference(
    make: Make, narrator: list[dict[str, Any]], wav: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = spread(vectors([0] * 7 + [1] + [0] * 8, 1.0))
    monkeypatch.setattr(one_voice, "spread", lambda _: found)
    settings = make(narrator, ref_audio_strategy="best")
    prepare.run(settings)
    assert found.others == [7]
    assert files.read_json(settings.paths.quality)["warnings"]["other_voice"] == {"rows": 1, "examples": ["train-8"]}
    references = read_summary(settings.paths)["speakers"]["speaker"]["references"]
    assert len(references) == 5
    assert narrator[7]["audio"] not in references


def test_clips_full_of_speech_come_before_cleaner_ones_with_little() -> None:
    """Music and pauses measure cleanest of all, and are no voice."""
    seconds, snr, clipped = np.full(4, 5.0), np.array([60.0, 50.0, 20.0, 40.0]), np.zeros(4)
    speech, pause = np.array([0.1, 0.9, 0.9, 0.4]), np.array([0.2, 2.5, 0.2, 0.2])
    rate = np.full(4, RATE, dtype=np.int32)
    assert best_clips(seconds, snr, clipped, rate, speech, pause).tolist() == [2, 3]
    assert best_clips(seconds[:1], snr[:1], clipped[:1], rate[:1], speech[:1], pause[:1]).tolist() == [0]
