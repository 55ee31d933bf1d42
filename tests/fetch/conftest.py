"""Real recordings (small), and fetch run as the job runs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from job import fetch
from job.config import settings
from job.core import files
from tests.support.bucket import Bucket


def write_audio(path: Path, seconds: float = 0.5, rate: int = 16000, seed: int = 0) -> Path:
    """A short tone with some noise, in the format that the ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.01, time.shape)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * (200 + 20 * seed) * time) + noise, rate)
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    """JSONL; strings are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def fetched(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run fetch with the given variables; returns its counts, the manifests' rows and the rejected rows."""

    def run(**variables: Any) -> dict[str, Any]:
        fixed = {"WORK_DIR": str(tmp_path / "work"), "TRANSCRIBE": "never"}
        loaded = settings.load({**fixed, **{k: str(v) for k, v in variables.items()}})
        counts = fetch.run(loaded)
        manifests = {
            split: list(files.read_jsonl(path)) if (path := loaded.paths.manifest(split)).exists() else None
            for split in ("train", "validation")
        }
        rejected = list(files.read_jsonl(loaded.paths.fetch_rejected)) if loaded.paths.fetch_rejected.exists() else []
        return {"counts": counts, **manifests, "rejected": rejected, "settings": loaded}

    return run


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A local S3, to which the variables lead."""
    with Bucket() as served:
        for name, value in served.env.items():
            monkeypatch.setenv(name, value)
        yield served
