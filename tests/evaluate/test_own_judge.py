"""A judge of one's own: one file and one call, and its figure is in the numbers, the verdict and the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from job.config.settings import Settings
from job.evaluate import report, synthesize
from job.evaluate.judges import registry
from job.evaluate.judges.figures import Figure
from job.evaluate.judges.judge import Clip, Judge
from tests.evaluate.test_synthesize import Talking, install, settings, stats

LOUDEST = Figure("loudest", "Loudest moment", "", 2, "higher", 0.01, "loudness", (0.01, 0.1, 0.5))


class Loudest(Judge):
    """How loud the loudest moment is."""

    name = "loudest"
    by = "the largest magnitude"

    def __call__(self, clip: Clip) -> dict[str, Any]:
        return {"loudest": float(abs(clip.waveform).max()) if clip.waveform.size else None}


def load(settings: Settings, device: str) -> Loudest:
    return Loudest()


@pytest.fixture
def own() -> Iterator[None]:
    registry.register(load, LOUDEST)
    yield
    registry.unregister(load, LOUDEST)


def test_a_judge_that_is_registered_is_heard_everywhere(own: None, talking: Talking, tmp_path: Path) -> None:
    checkpoint, _ = talking
    work = install(checkpoint, tmp_path)
    asked = settings(work, test_texts="Ten.", mos_model="none", synth_gate="off", max_new_tokens=8, baselines=False)
    synthesize.run(asked)
    written = stats(work)
    assert all(sample["loudest"] > 0 for sample in written["samples"])
    assert "loudness" in written["summary"]["verdict"].lower()
    report.run(asked)
    assert "Loudest moment" in (asked.paths.report).read_text(encoding="utf-8")
