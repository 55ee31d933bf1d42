"""Recordings that lie in a tar or a pack go through prepare as those in files of their own do, and once."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import soundfile

from job import fetch
from job import prepare as preparing
from job.config import settings as variables
from job.config.paths import Paths
from job.config.settings import Settings
from job.core import files
from job.dataset import prepared


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def codes_of(paths: Paths) -> list[list[Any]]:
    table = prepared.read_split(paths, "train")
    return [row["codes"] for row in table.select(["codes"]).to_pylist()]


@pytest.fixture
def run(tiny_base: Path, tmp_path: Path) -> Any:
    def prepare(work: str, source: Path, **more: str) -> Settings:
        values = {
            "INIT_MODEL_PATH": tiny_base,
            "WORK_DIR": tmp_path / work,
            "TRAIN_JSONL": source,
            "TRANSCRIBE": "never",
        }
        loaded = variables.load({name: str(value) for name, value in {**values, "DEVICE": "cpu", **more}.items()})
        fetch.run(loaded)
        preparing.run(loaded)
        return loaded

    return prepare


def test_codes_do_not_depend_on_where_the_bytes_lie(tmp_path: Path, clips: list[dict[str, Any]], run: Any) -> None:
    """Files, a tar and Parquet with the same recordings give the same codes; edits name them as well."""
    rows = clips[:8]
    sounds = [Path(row["audio"]).read_bytes() for row in rows]
    files.write_jsonl(tmp_path / "files.jsonl", [{"audio": row["audio"], "text": row["text"]} for row in rows])
    named = [(f"u{n}.{'wav'}", sound) for n, sound in enumerate(sounds)]
    texts = [(f"u{n}.txt", row["text"].encode()) for n, row in enumerate(rows)]
    tar_of(tmp_path / "all.tar", sorted([*named, *texts]))
    sound = [{"bytes": one, "path": None} for one in sounds]
    parquet.write_table(pa.table({"audio": sound, "text": [row["text"] for row in rows]}), tmp_path / "all.parquet")
    names = ("files.jsonl", "all.tar", "all.parquet")
    alone, tarred, packed = (run(f"w{n}", tmp_path / name) for n, name in enumerate(names))
    assert codes_of(alone.paths) == codes_of(tarred.paths) == codes_of(packed.paths)
    players = re.findall(r'<audio[^>]* src="([^"]*)"', tarred.paths.quality_page.read_text())
    assert all(player.startswith("data:audio") for player in players), "a page cannot play a part of a tar"
    files.write_jsonl(tarred.paths.edits, [{"audio": "u3.wav", "bad": True}])
    assert len(codes_of(run("w1", tmp_path / "all.tar").paths)) == 7
    assert [row["reason"] for row in files.read_jsonl(tarred.paths.rejected)] == ["marked_bad"]


@pytest.mark.slow
def test_a_new_nights_shard_is_the_only_one_encoded(tmp_path: Path, run: Any) -> None:
    """What a full piece of the manifest held is not touched when rows are added behind it."""
    random = np.random.default_rng(0)

    def night(number: int, rows: int) -> None:
        members = []
        for n in range(rows):
            sound = io.BytesIO()
            soundfile.write(sound, 0.1 * random.standard_normal(2400), 24_000, format="WAV")
            members += [(f"{number}-{n:03d}.wav", sound.getvalue()), (f"{number}-{n:03d}.txt", b"Row %d." % n)]
        tar_of(tmp_path / "nights" / f"night-{number}.tar", members)

    more = {"QUALITY_GATE": "off", "MIN_SECONDS": "0.05"}
    night(0, 260)
    first = run("work", tmp_path / "nights", **more)
    shards = sorted(first.paths.encoding.glob("*.arrow"))
    before = [path.stat().st_mtime_ns for path in shards]
    night(1, 10)
    run("work", tmp_path / "nights", **more)
    after = [path.stat().st_mtime_ns for path in shards]
    changed = [one != other for one, other in zip(before, after, strict=True)]
    assert changed == [False, *[True] * (len(shards) - 1)]
    assert len(shards) == 2
    assert len(codes_of(first.paths)) + len(prepared.read_split(first.paths, "validation")) == 270
