"""A data source is one file and one entry in `job.fetch.sources.SOURCES`: here one that this file brings itself."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from job import fetch, pipeline, stages
from job.config.settings import Settings
from job.dataset.prepared import read_split
from job.fetch import sources
from job.fetch.table import Row, Table
from tests.fetch.conftest import write_audio


def numbered_files(settings: Settings) -> sources.Source | None:
    """A folder `*.lines` with a text file and a recording per line number: `1.txt`, `1.wav`, `2.txt` ..."""
    folder = settings.data_dir
    if folder is None or folder.suffix != ".lines":
        return None
    table = Table("lines", f"DATA_DIR={folder}", ["audio", "text"], partial(read, folder), folders=[folder])
    return sources.Source(f"the numbered files in {folder}", lambda: {"train": table}, files=(folder,))


def read(folder: Path) -> Iterator[Row]:
    for text in sorted(folder.glob("*.txt"), key=lambda path: int(path.stem)):
        yield Row(int(text.stem), {"audio": f"{text.stem}.wav", "text": text.read_text(encoding="utf-8")})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two rows and a third without a recording, with the source registered."""
    monkeypatch.setattr(sources, "SOURCES", (numbered_files, *sources.SOURCES))
    root = tmp_path / "voice.lines"
    for number in (1, 2, 10):
        write_audio(root / f"{number}.wav", seconds=1.5, seed=number)
        (root / f"{number}.txt").write_text(f"This is sentence number {number}.", encoding="utf-8")
    (root / "10.wav").unlink()
    return root


def test_an_added_source_is_fetched_and_prepared_like_the_others(folder: Path, fetched: Any, tiny_base: Path) -> None:
    got = fetched(DATA_DIR=folder, INIT_MODEL_PATH=tiny_base, QUALITY_GATE="off", DEVICE="cpu")
    assert got["counts"]["source"] == f"the numbered files in {folder}"
    assert [(Path(row["audio"]).name, row["row"]) for row in got["train"]] == [("1.wav", 1), ("2.wav", 2)]
    assert [row["row"] for row in got["rejected"]] == [10]
    pipeline.run(got["settings"], "fetch", "prepare")
    assert read_split(got["settings"].paths, "train").num_rows == 2


def test_an_added_source_counts_as_data_and_runs_fetch_again_when_it_changes(folder: Path, fetched: Any) -> None:
    settings = fetched(DATA_DIR=folder)["settings"]
    assert fetch.is_named(settings) and fetch.needs_the_hub(settings) is None
    assert fetch.check(settings).startswith("the numbered files in")
    stage = stages.stage("fetch")
    before = pipeline.fingerprint(settings, stage, {})
    (folder / "1.txt").write_text("Another sentence.", encoding="utf-8")
    assert pipeline.fingerprint(settings, stage, {}) != before
