"""How similar other people are to a speaker is measured on the embedded clips, without those of the speaker."""

from __future__ import annotations

import numpy as np
import pytest

from job.evaluate.judges.strangers import Likeness


def test_other_people_are_all_but_the_speaker_and_are_heard_once():
    heard: list[int] = []

    def embed(wave: np.ndarray, rate: int) -> np.ndarray:
        heard.append(wave.size)
        assert rate == 24_000 and wave.ndim == 1
        return np.array([1.0, 0.0]) if len(heard) <= 3 else np.array([0.0, 1.0])  # the clips are in the voices' order

    others = Likeness(embed)
    references = [np.array([1.0, 0.0]), np.array([1.0, 0.0])]
    assert 0 < others.to("Somebody", references) < 1
    count = len(heard)
    assert others.to("ADA", references) == pytest.approx(0)
    assert others.to("Somebody", references) == others.to("somebody", []) and len(heard) == count
