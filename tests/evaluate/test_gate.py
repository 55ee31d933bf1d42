"""The gate on good speech and on speech with planted faults: the embedded clips, which no threshold was set by."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from job.core.errors import SpeechFailed
from job.demo import manifest
from job.evaluate import checks, own, pace, speech_gate
from job.evaluate.audio_stats import AudioStats, measure
from job.evaluate.hearing import Heard, listen
from tests.support.planted import AGAINST_THE_VOICE, RATE, SOUNDS, vocoded

#: A clip of each of the two voices, neither the shortest nor the longest.
JUDGED = ("en-06", "de-04")


@cache
def clips() -> dict[str, tuple[dict[str, str], np.ndarray]]:
    return {Path(row["audio"]).stem: (row, soundfile.read(row["audio"])[0]) for row in manifest()}


@cache
def recordings_of(speaker: str) -> own.Own:
    """What the voice is known to be like: from its clips but the ones that are judged."""
    of = [(row, wave) for name, (row, wave) in clips().items() if row["speaker"] == speaker and name not in JUDGED]
    waves = [wave for _, wave in of]
    return own.of_recordings(waves, RATE, [row["text"] for row, _ in of], [wave.size / RATE for wave in waves])


def judged(wave: np.ndarray, text: str, like: own.Own | None = None) -> list[str]:
    return speech_gate.problems(measure(wave, RATE), listen(wave, RATE), text, wave.size, True, wave.size, 1, like)


@pytest.mark.parametrize("kind", [*SOUNDS, *AGAINST_THE_VOICE])
def test_a_planted_fault_is_heard(kind: str):
    for name in JUDGED:
        row, wave = clips()[name]
        rng = np.random.default_rng(1)
        if kind == "backwards":  # espeak-ng adds up sines, which sound the same in both directions; pulses do not
            wave = vocoded(wave, rng)
        faulty = {**SOUNDS, **AGAINST_THE_VOICE}[kind](wave, rng)
        like = None if kind == "backwards" else recordings_of(row["speaker"])
        assert judged(faulty, row["text"], like), name


@pytest.mark.parametrize(
    ("kind", "side", "names"), [("half speed", "below", JUDGED[:1]), ("double speed", "above", JUDGED)]
)
def test_another_speed_is_heard_by_the_pitch_where_the_text_tells_nothing(kind: str, side: str, names: tuple[str, ...]):
    """A single word can take any time; half the pitch of a deep voice is under what is looked for."""
    for name in names:
        row, wave = clips()[name]
        faulty = AGAINST_THE_VOICE[kind](wave, np.random.default_rng(1))
        like = recordings_of(row["speaker"])
        assert any(f"far {side} the voice's recordings" in one for one in judged(faulty, "…", like))
        assert judged(wave, "…", like) == []


def test_good_speech_passes_with_and_without_the_voices_own_recordings():
    for row, wave in clips().values():
        assert judged(wave, row["text"], recordings_of(row["speaker"])) == [], row["audio"]
        assert judged(wave, row["text"]) == [], row["audio"]


def test_what_the_voices_own_recordings_have_too_is_no_fault():
    """A voice recorded by telephone speaks like a telephone, and is not held to have a hum."""
    row, wave = clips()["en-06"]
    telephone = SOUNDS["band of 4 kHz (telephone)"]
    rng = np.random.default_rng(0)
    thin = telephone(wave, rng)
    assert any("telephone" in problem for problem in judged(thin, row["text"]))
    like = own.of_recordings([telephone(clips()["en-07"][1], rng)], RATE, [], [])
    assert like.off == {"muffled", "backwards"}
    assert judged(thin, row["text"], like) == []
    assert judged(SOUNDS["60 Hz hum"](wave, rng), row["text"], like)


def test_a_band_of_8_khz_is_heard_in_less_than_a_second_where_the_voices_recordings_have_more():
    """Half a second may have no consonant that needs more; its vowels do not have what those of the recordings have."""
    dull = AGAINST_THE_VOICE["band of 8 kHz"]
    rng = np.random.default_rng(0)
    for name in JUDGED:
        row, wave = clips()[name]
        like = recordings_of(row["speaker"])
        assert like.dullest is not None
        for at in range(RATE // 2, wave.size - RATE, RATE // 2):
            word = np.hanning(RATE // 2) * wave[at : at + RATE // 2]
            assert judged(word, "…", like) == []
            assert any("above 8 kHz in any sound" in one for one in judged(dull(word, rng), "…", like))
    dull_voice = own.of_recordings([dull(wave, rng) for _, wave in list(clips().values())[:3]], RATE, [], [])
    assert dull_voice.dullest is None


def test_every_sentence_of_the_table_can_be_said_and_every_figure_of_it_is_measured():
    wave = clips()["en-06"][1]
    figures = speech_gate.figures(
        measure(wave, RATE),
        listen(wave, RATE),
        "Hello.",
        own.Own(bandwidth=11_000.0, dullest=-60.0, pitch=(90.0, 110.0)),
    )
    for check in (*checks.SILENCE, *checks.CHECKS):
        assert figures[check.figure] is not None, check.name
        assert "{" not in check.sentence.format(**figures)
        beyond = {check.figure: check.limit + (1 if check.bad == "above" else -1)}
        assert check.fails(beyond) and not check.fails({check.figure: check.limit})
        assert not check.fails({check.figure: None}) and not check.fails({check.figure: float("nan")})


def test_a_pace_is_learned_from_recordings_and_bounds_others_of_the_voice():
    texts = ["a" * n for n in (5, 10, 20, 40, 80)]
    found = pace.fit(texts, [0.2 + 0.08 * len(text) for text in texts])
    assert found is not None and found.around == pytest.approx(0.2) and found.per_letter == pytest.approx(0.08)
    shortest, longest = pace.bounds("b" * 30, found)
    assert 2.6 / 2 < shortest < 2.6 < longest < 2.6 * 2
    assert pace.fit(texts[:4], [1.0] * 4) is None
    assert pace.bounds("…!", found) == (0.0, float("inf"))


def test_a_character_that_is_a_syllable_takes_the_time_of_one():
    for one, other in (("你好世界", "nihao shijie"), ("こんにちは", "konnichiwa"), ("नमस्ते", "namaste"), ("7", "seven")):
        assert pace.letters(one) == pytest.approx(pace.letters(other), rel=0.5)


def test_no_sound_and_hardly_any_is_not_judged_by_how_it_sounds():
    for wave in (np.zeros(0), np.zeros(RATE), np.full(RATE // 10, 0.5)):
        assert listen(wave, RATE) == Heard()


def test_the_share_decides_between_a_warning_and_a_failure(capsys: pytest.CaptureFixture[str]):
    bad = {"file": "01.wav", "passed": False, "problems": ["silent"]}
    good = {"file": "02.wav", "passed": True, "problems": []}
    speech_gate.decide("off", [bad], 0.25)
    assert capsys.readouterr().err == ""
    speech_gate.decide("warn", [bad], 0.25)
    assert "1 of 1 samples failed" in capsys.readouterr().err
    speech_gate.decide("fail", [bad, *[good] * 4], 0.25)
    with pytest.raises(SpeechFailed, match="1 of 4 samples failed"):
        speech_gate.decide("fail", [bad, *[good] * 3], 0.25)
    speech_gate.decide("fail", [bad, *[good] * 3], 0.5)


def test_what_did_not_come_out_of_the_codec_as_it_should_has_its_problem():
    row, wave = clips()["en-05"]
    text, frames = row["text"], wave.size // 1920
    wave = wave[: 1920 * frames]

    def found(wave: np.ndarray, frames: int = frames, stopped: bool = True) -> list[str]:
        return speech_gate.problems(
            measure(wave, RATE, 1920), listen(wave, RATE), text, frames, stopped, wave.size, 1920
        )

    assert found(wave) == []
    assert found(wave * 0) == ["silent"]
    assert found(wave, stopped=False) == ["never stopped"]
    assert found(wave[:0], frames=0) == ["empty"]
    assert found(np.where(np.arange(wave.size) == 7, np.nan, wave)) == ["1 samples are not finite"]
    assert found(wave[:-100]) == [f"{wave.size - 100} samples instead of {wave.size}"]
    assert found(np.concatenate([wave, np.zeros(40 * 1920), wave]), frames=2 * frames + 40)[0].startswith(
        "a pause of 3"
    )


def test_the_figures_of_stats_json_keep_their_names():
    old = {
        "seconds",
        "rms",
        "absmax",
        "clipped",
        "silence_fraction",
        "longest_inner_silence",
        "dc",
        "non_finite",
        "pops",
    }
    assert old <= set(AudioStats.__dataclass_fields__)
    assert not set(AudioStats.__dataclass_fields__) & set(Heard.__dataclass_fields__)
