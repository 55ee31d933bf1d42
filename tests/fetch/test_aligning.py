"""A long recording with its text becomes rows, a sentence each: none cut inside a word, and what does not fit is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from job import fetch
from job.config import settings as variables
from job.core import files
from job.core.errors import BadInput
from job.demo import manifest
from job.fetch.alignment import emissions
from tests.fetch.conftest import write_lines
from tests.support import ctc

#: The texts of the embedded clips, and a sentence that no recording has.
CLIPS = [row for row in manifest() if row["language"] == "English"]
HEADING = "Chapter the first, in which nobody speaks"
UNSAID = "This sentence was left out by the reader, as readers do."


def _wave(row: dict[str, Any]) -> np.ndarray:
    wave, rate = soundfile.read(row["audio"], dtype="float32")
    wave = np.asarray(soxr.resample(wave, rate, ctc.RATE))
    return wave[: len(wave) // ctc.HOP * ctc.HOP]


@pytest.fixture(scope="session")
def tiny_ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real CTC model that hears the embedded English clips."""
    return ctc.build(tmp_path_factory.mktemp("ctc") / "tiny", [_wave(r) for r in CLIPS], [r["text"] for r in CLIPS])


def recorded(path: Path, order: list[int], seed: int = 0) -> list[tuple[float, float, str]]:
    """Write a recording of the clips in an order, with pauses; returns what is said when."""
    rng = np.random.default_rng(seed)
    parts, said, at = [], [], 0
    for number in order:
        wave = _wave(CLIPS[number])
        pause = ctc.HOP * int(rng.integers(20, 60))
        parts += [np.zeros(pause, np.float32), wave]
        said.append(((at + pause) / ctc.RATE, (at + pause + len(wave)) / ctc.RATE, CLIPS[number]["text"]))
        at += pause + len(wave)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate([*parts, np.zeros(ctc.RATE // 2, np.float32)]), ctc.RATE)
    return said


@pytest.fixture
def aligned(fetched: Callable[..., Any], tiny_ctc: Path) -> Callable[..., Any]:
    """Run fetch with the tiny model; recordings of more than 8 s are long."""
    options = {"ALIGN_MODEL": tiny_ctc, "DEVICE": "cpu", "MAX_SECONDS": 8, "LANGUAGE": "English"}
    return lambda **more: fetched(**{**options, **more})


ORDER = [6, 0, 3, 5, 4, 2, 6, 1, 5, 3, 0, 6, 4, 5, 2, 3]


def test_a_chapter_with_its_text_becomes_a_row_for_each_sentence(
    tmp_path: Path, aligned: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    said = recorded(tmp_path / "in" / "one.wav", ORDER)
    told = [text for *_, text in said]
    del told[8]  # said, and not written
    text = f"{HEADING}\n\n{' '.join(told[:5])} {UNSAID}\n{' '.join(told[5:])}\n"
    (tmp_path / "in" / "one.txt").write_text(text, encoding="utf-8")
    got = aligned(DATA_DIR=tmp_path / "in")
    print(capsys.readouterr().out, *got["rejected"], sep="\n")
    for row in got["train"]: print(row["start"], row["end"], row["text"])
    for one in said: print(one)
    assert [row["text"] for row in got["train"]] == told
