"""A rate that drifts through a long text is measured without its words, and warned of beside the recordings'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr

from job.core import files
from job.evaluate import drifting, report, synthesize
from job.evaluate.judges.tempo import rate_drift
from tests.evaluate.conftest import write_prepared
from tests.evaluate.test_synthesize import install, settings
from tests.support.speech import spoken


def ending(speed: float, level: float = 1.0) -> np.ndarray:
    """The same speech three times, the last time at that speed and level: what is said at both ends is alike."""
    once = spoken(4.0)
    return np.concatenate([once, once, level * soxr.resample(once, 24_000 * speed, 24_000)]).astype(np.float32)


@pytest.mark.parametrize("speed", [0.67, 1.5])
def test_faster_and_slower_ends_are_told_from_steady_speech_whatever_the_level(speed: float) -> None:
    steady, drifting_ = rate_drift(ending(1.0), 24_000), rate_drift(ending(speed), 24_000)
    assert steady is not None and drifting_ is not None
    assert abs(steady) < 0.15
    assert (drifting_ - steady > 0.25) if speed > 1 else (drifting_ - steady < -0.15)
    assert rate_drift(ending(speed, 0.7), 24_000) == pytest.approx(drifting_, abs=0.1)


def test_what_is_too_short_or_silent_has_no_drift() -> None:
    assert rate_drift(spoken(4.0), 24_000) is None
    assert rate_drift(np.zeros(10 * 24_000, dtype=np.float32), 24_000) is None


def told(drifts: list[float | None]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    texts = [{"speaker": "kari", "text": f"Text {number}."} for number in range(len(drifts))]
    return texts, [{"rate_drift": value} for value in drifts]


@pytest.mark.parametrize(
    ("said", "recorded", "way"),
    [
        ([0.1, None], [], None),
        ([0.3], [], "faster"),
        ([-0.2, -0.2, -0.2], [], "slower"),
        ([0.3], [0.25, 0.3, 0.35], None),  # as its recordings
        ([0.3], [-0.2, 0.3, -0.1], None),  # which vary by as much
        ([0.0], [0.3, 0.32, 0.34], "slower"),
        ([None], [0.0], None),
    ],
)
def test_a_drift_is_warned_of_where_it_is_neither_chance_nor_the_recordings(
    said: list[float | None], recorded: list[float], way: str | None
) -> None:
    found = drifting.warnings(*told(said), told(list(recorded))[1])
    assert [f"kari gets {way} through a long text" in one for one in found] == ([True] if way else [])


def test_the_figure_of_a_long_text_and_its_warning_are_in_the_stats_and_on_the_page(
    endless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real model babbles for eight seconds. Nothing is allowed here, so what little it drifts is warned of."""
    monkeypatch.setattr(drifting, "ALLOWED", 0.0)
    asked = settings(install(endless, tmp_path), test_texts="A text.", max_new_tokens=100, greedy=True)
    write_prepared(asked.paths, [{"text": "Cab.", "speaker": "my_voice"}])
    synthesize.run(asked)
    written = files.read_json(asked.paths.samples / "stats.json")
    mine = next(one for one in written["samples"] if one["speaker"] == "my_voice")
    assert abs(mine["rate_drift"]) > 0
    assert written["summary"]["rate_drift"] is not None
    (line,) = [one for one in written["warnings"] if one.startswith("my_voice gets ")]
    report.run(asked)
    page = asked.paths.report.read_text(encoding="utf-8")
    assert line.split(":")[0] in page and "Rate of the end against the beginning" in page
