"""`benchmarks/hour.py`: what it counts is what is there, and three minutes of known sentences come out whole."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/hour.py"


@pytest.fixture
def hour(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("hour", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "hour", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


ROWS = [
    {"start": 0.9, "end": 3.1, "text": "Ta lo, medako."},
    {"start": 4.9, "end": 6.1, "text": "Pil ri!"},
]


@pytest.mark.parametrize(
    ("number", "changed", "uncut", "whole", "cut", "errors"),
    [
        (0, {}, 1.0, 1.0, 0, 0.0),
        (0, {"start": 1.3}, 0.5, 0.5, 1, 3 / 15),  # in the first word, which is then not said in the row
        (0, {"end": 2.2}, 0.5, 0.5, 0, 7 / 11),  # between two words: nothing is cut, but the sentence is not whole
        (1, {"text": "Pil ra!"}, 1.0, 0.5, 0, 1 / 18),
        (1, {"text": "Pil ri! Ta."}, 1.0, 1.0, 0, 3 / 18),
    ],
)
def test_what_is_cut_lost_or_misheard_is_counted(
    hour: ModuleType, number: int, changed: dict[str, Any], uncut: float, whole: float, cut: int, errors: float
) -> None:
    told = [
        hour.Told("Ta lo, medako.", [("ta", 1.0, 1.5), ("lo", 1.6, 2.1), ("medako", 2.3, 3.0)]),
        hour.Told("Pil ri!", [("pil", 5.0, 5.4), ("ri", 5.5, 6.0)]),
    ]
    rows = [dict(row, **changed) if at == number else row for at, row in enumerate(ROWS)]
    found = hour.compare(rows, told, wrong=0.0)
    assert (found["uncut"], found["whole"], found["cut_words"]) == (uncut, whole, cut)
    assert found["error_rate"] == pytest.approx(errors, abs=1e-4)


@pytest.mark.slow
def test_sentences_of_an_m4a_come_out_whole_with_a_chapter_text_and_none_is_cut_without(tmp_path: Path) -> None:
    """The model has learnt for a minute, from other sentences: enough to find a text, not to write one."""
    small = ["--minutes", "3", "--learn", "6", "--steps", "200", "40", "--work", str(tmp_path)]
    command = [sys.executable, str(SCRIPT), *small, "--cases", "m4a+text", "m4a+srt", "wav+asr"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    lines = {
        one["case"]: one for line in done.stdout.splitlines() if line.startswith("{") and (one := json.loads(line))
    }
    assert lines["m4a+text"]["held"] and lines["m4a+srt"]["held"], (done.stdout, done.stderr)
    assert (lines["wav+asr"]["uncut"], lines["wav+asr"]["cut_words"]) == (1.0, 0), done.stdout
    assert lines["m4a+text"]["sentences"] > 15
