"""Flaws of single recordings: each is found where it was planted, and good speech has none that it is left out for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pyarrow as pa
import pytest

from job.audio import flaws
from job.audio.measure import measure
from job.prepare.copies import REASON, Prints
from job.prepare.flawed import Sounds
from job.prepare.thresholds import LIMITS
from job.prepare.tongues import Tongues
from tests.support import defects
from tests.support.planted import vocoded

RATE = 24_000
Rows = list[np.ndarray]


@cache
def good(number: int) -> np.ndarray:
    return defects.good_row(number).wave.astype(np.float32)


def buzz(wave: np.ndarray) -> np.ndarray:
    """A square wave of 50 Hz, as a bad power supply has it."""
    return wave + 0.1 * np.sign(np.sin(2 * np.pi * 50 * np.arange(wave.size) / RATE))


def holes(wave: np.ndarray) -> np.ndarray:
    """Packets of 10 ms, one in twelve of which was lost and the last sample held."""
    lost = wave.copy()
    for start in range(2400, wave.size - 240, 2880):
        lost[start : start + 240] = lost[start]
    return lost


def stuck(wave: np.ndarray) -> np.ndarray:
    return np.resize(wave[RATE : RATE + RATE // 3], wave.size)


def monotone(wave: np.ndarray) -> np.ndarray:
    said = vocoded(wave, np.random.default_rng(0), 150.0, 0.0)
    return said + 1e-4 * np.random.default_rng(0).standard_normal(said.size)


def muffled(wave: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(wave)
    spectrum[int(4500 * wave.size / RATE) :] = 0
    return np.fft.irfft(spectrum, wave.size)


def organ(wave: np.ndarray) -> np.ndarray:
    """A chord that is held, a fifth of the speech's level, off the harmonics of 50 and 60 Hz."""
    time = np.arange(wave.size) / RATE
    tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in (523.3, 659.3, 784.0))
    return wave + np.asarray(tones) * defects.rms(wave) * 0.2


def begins_late(wave: np.ndarray) -> np.ndarray:
    return wave[int(np.argmax(np.convolve(wave**2, np.ones(960), "same")[: wave.size // 2])) :]


def turned(wave: np.ndarray) -> np.ndarray:
    """Backwards, by a voice of pulses as people's are; the embedded ones add up sines, which have no direction."""
    said = vocoded(wave, np.random.default_rng(0))
    return said[::-1] + 1e-4 * np.random.default_rng(0).standard_normal(said.size)


PLANTED: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "buzz": (buzz, "hum"),
    "lost packets": (holes, "dropouts"),
    "stuck": (stuck, "loop"),
    "monotone": (monotone, "robot"),
    "backwards": (turned, "reversed"),
    "muffled": (muffled, "narrow_band"),
    "a held chord": (organ, "music"),
    "begins inside a word": (begins_late, "cut_off_word"),
    "overdriven": (lambda wave: 0.4 * np.tanh(40 * wave), "clipped"),
    "far too soft": (lambda wave: 0.002 * wave / np.abs(wave).max(), "too_soft"),
}


def shard(waves: Rows, source: str = "rows.jsonl") -> pa.Table:
    """The columns that sounds and prints are judged by."""
    figures, found = [measure(w, RATE, 1) for w in waves], [flaws.find(w, RATE) for w in waves]
    columns: dict[str, list[object]] = {
        "position": list(range(len(waves))),
        "reason": [None] * len(waves),
        "source": [source] * len(waves),
        "seconds": [one.seconds for one in figures],
        "print": [one.print.tobytes() for one in found],
    }
    for limit in LIMITS:
        of = figures if hasattr(figures[0], limit.figure) else found
        columns[limit.figure] = [float(getattr(one, limit.figure)) for one in of]
    return pa.table(columns).set_column(1, "reason", pa.nulls(len(waves), pa.string()))


@pytest.mark.parametrize("kind", PLANTED)
def test_a_flaw_is_found_and_good_speech_beside_it_is_kept(kind: str) -> None:
    plant, reason = PLANTED[kind]
    waves = [good(number) for number in range(6)]
    waves[4] = plant(waves[4]).astype(np.float32)
    found = Sounds()
    found.add("train", shard(waves))
    flawed = found.compare()
    rows = {int(at) for one in (*flawed.left_out, *flawed.named) if one.reason == reason for at in one.position}
    assert rows == {4}
    assert all(int(at) == 4 for one in flawed.left_out for at in one.position)


def test_a_telephone_is_not_held_to_run_backwards() -> None:
    """Its steep filter rings, which looks like sounds that swell."""
    rng = np.random.default_rng(0)
    rows = [defects.telephone(defects.good_row(number), rng).astype(np.float32) for number in range(3)]
    assert all(np.isnan(flaws.find(row, RATE).asymmetry) for row in rows)


def test_what_a_whole_source_has_is_kept_and_said_once() -> None:
    found = Sounds()
    found.add("train", shard([buzz(good(n)).astype(np.float32) for n in range(6)], "cellar.jsonl"))
    flawed = found.compare()
    assert not any(len(one.position) for one in (*flawed.left_out, *flawed.named) if one.reason == "hum")
    (said,) = (line for line in flawed.sources if line.startswith("hum"))
    assert "6 of 6 rows of cellar.jsonl" in said


def test_sound_of_any_kind_and_length_can_be_judged() -> None:
    """Silence, one sample, a click, full scale: figures are numbers or NaN, and nothing fails."""
    draw = np.random.default_rng(0)
    click = np.zeros(RATE, np.float32)
    click[5000] = 1
    for wave in (np.zeros(1), np.zeros(3 * RATE), click, np.ones(2 * RATE), draw.uniform(-1, 1, 12_001)):
        found = flaws.find(wave.astype(np.float32), RATE)
        assert not any(np.isinf(value) for value in found.figures().values())
        assert found.print.shape == (flaws.PRINT_SIZE,)


def test_a_copy_is_named_whatever_its_level_and_noise_and_other_takes_are_not() -> None:
    waves = [good(number) for number in range(8)]
    noise = np.random.default_rng(0).standard_normal(waves[2].size)
    copy = 0.4 * np.concatenate([np.zeros(1200), waves[2] + 1e-3 * noise])
    prints = Prints()
    prints.add("train", shard([*waves, copy.astype(np.float32)]))
    repeated, crossing = prints.compare()
    assert (repeated.reason, [int(at) for at in repeated.position]) == (REASON, [8])
    assert not len(crossing.position)


def test_a_text_in_another_language_of_the_data_is_named() -> None:
    english = [f"The {one} is what they thought of when the other was with them." for one in "abcdefghijklmnopqrstuvwx"]
    german = [f"Der {one} ist nicht das, was wir gestern auf der Straße gesehen haben." for one in "abcdefghijklmnopqr"]
    german += [f"Wenn {one} heute noch kommt, dann gehen wir zusammen in die Stadt." for one in "abcdefgh"]
    texts = [*english, *german, german[0] + " Wir haben das nicht gewusst."]
    languages = ["english"] * len(english) + ["german"] * len(german) + ["english"]
    table = pa.table(
        {
            "reason": pa.nulls(len(texts), pa.string()),
            "language": languages,
            "text": texts,
            "warnings": pa.array([[]] * len(texts), pa.list_(pa.string())),
        }
    )
    tongues = Tongues()
    tongues.add(table)
    warned = [number for number, found in enumerate(tongues.mark(table)["warnings"].to_pylist()) if found]
    assert warned == [len(texts) - 1]
