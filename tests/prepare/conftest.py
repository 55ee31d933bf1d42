"""Real recordings, manifests and settings for the tests of prepare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from job.config.settings import Settings
from job.core import files
from job.demo import manifest as demo_manifest
from tests.support.speech import spoken

Make = Callable[..., Settings]


#: Speech of one voice: `voice(seconds, rate, seed, level)`, float32 (samples,), different for each seed.
voice = spoken


@pytest.fixture
def make(tiny_base: Path, tmp_path: Path) -> Make:
    """Settings on the tiny base with a work directory of their own, and `rows` as the training manifest."""

    def build(
        rows: list[dict[str, Any]], validation: list[dict[str, Any]] | None = None, work: str = "work", **values: Any
    ) -> Settings:
        settings = Settings(
            **{"init_model_path": str(tiny_base), "work_dir": tmp_path / work, "device": "cpu", **values}
        )
        files.write_jsonl(settings.paths.manifest("train"), complete(rows, "train"))
        if validation is not None:
            files.write_jsonl(settings.paths.manifest("validation"), complete(validation, "validation"))
        return settings

    return build


def complete(rows: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """Rows with all the keys that fetch writes."""
    empty = dict.fromkeys(("audio", "ref_audio", "ref_text", "speaker", "language", "instruct"))
    return [
        {**empty, "id": f"{split}-{n}", "text": "Some words.", "row": n, "source": "rows.jsonl", **row}
        for n, row in enumerate(rows, start=1)
    ]


@pytest.fixture
def wav(tmp_path: Path) -> Callable[..., str]:
    """Write samples to a WAV file in the test's directory; returns its path."""

    def write(name: str, samples: np.ndarray, rate: int = 24_000, subtype: str = "PCM_16") -> str:
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, samples, rate, subtype=subtype)
        return str(path)

    return write


@pytest.fixture(scope="session")
def clips() -> list[dict[str, Any]]:
    """The embedded clips of speech as raw rows: two speakers, two languages."""
    return demo_manifest()
