"""`benchmarks/row_recogniser.py`: what it learns from is said when it is held to be said."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from tests.support import defects

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def row_recogniser(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    module = importlib.import_module("row_recogniser")
    yield module
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_what_the_recogniser_of_planted_rows_learns_is_said_when_it_is_held_to_be(
    row_recogniser: ModuleType, tmp_path: Path
) -> None:
    """Each word is where the sound is, and its letters are all of it."""
    said = row_recogniser.speech(tmp_path / "said.wav", 0.25)
    wave, rate = soundfile.read(tmp_path / "said.wav")
    words = [word for one in said for word in one.words]
    assert {letter for word in words for letter in word.text} <= set(row_recogniser.LETTERS)
    inside = np.zeros(len(wave), bool)
    for before, after in pairwise(words):
        assert before.end <= after.start + 1e-9
    for word in words:
        assert [letter for letter, *_ in word.letters] == list(word.text)
        assert (word.letters[0][1], round(word.letters[-1][2], 6)) == (word.start, round(word.end, 6))
        inside[round(word.start * rate) : round(word.end * rate)] = True
    level = 20 * np.log10(defects.rms(wave[inside]) / defects.rms(wave[~inside]))
    assert level > 25, f"{level:.0f} dB: the words are elsewhere"
