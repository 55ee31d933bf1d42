"""With a recogniser the gate finds other words and reversed speech by espeak-ng, and flags no good speech.

The other kinds of `benchmarks/planted_speech.py` are planted in the embedded clips in `tests/evaluate/test_gate.py`.
"""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from job.config.settings import Settings
from job.evaluate.judges import intelligibility

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
HEARD = (
    "other words",
    "backwards, voices of pulses",
    "backwards, voices of sines",
    "silent",
    "half of the text",
    "good",
)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed (apt-get install espeak-ng)")
def test_other_words_and_reversed_speech_are_found_and_no_good_speech_is_flagged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two voices, pulses and sines, and a recogniser that learns them from other sentences.

    Another voice needs a speaker encoder, whose weights are not in the lock: the benchmark's table has it, and
    `tests/evaluate/test_heard_words.py` its rule.
    """
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    planted_speech = importlib.import_module("planted_speech")
    planted_judges = importlib.import_module("planted_judges")
    voices = [one for one in planted_speech.VOICES if one[3] == "it"]
    model = planted_judges.recogniser(tmp_path / "letters", voices, seconds=60.0, steps=(150, 350))
    listener = intelligibility.load(Settings(asr_model=str(model)), "cpu")
    assert listener is not None
    kinds = planted_speech.planted(list(planted_speech.made(voices)), 10, np.random.default_rng(0), True)
    told = planted_speech.heard({kind: kinds[kind] for kind in HEARD}, [listener])
    passed = {kind: [one for one in ways[-1] if one["passed"]] for kind, ways in told.items()}
    assert len(passed.pop("good")) == 10
    assert sum(map(len, passed.values())) <= 1, passed  # of 40: 95 %, and one
