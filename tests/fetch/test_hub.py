"""Hub datasets through the real clients over HTTP: what arrives, what is asked for, and what failures say."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import soundfile

from job.core import inside
from tests.hub.server import READ, Hub
from tests.support.bucket import Bucket

CODE = """
import json, sys
from job import fetch
from job.config import settings
from job.core.errors import JobError
assert not {"torch", "datasets"} & sys.modules.keys(), "importing fetch is cheap"
for asked in json.load(sys.stdin):
    try:
        loaded = settings.load(asked["variables"])
        print("RESULT", json.dumps({"value": getattr(fetch, asked["call"])(loaded)}), flush=True)
    except JobError as error:
        print("RESULT", json.dumps({"error": str(error), "kind": type(error).__name__}), flush=True)
"""


def call(hub: Hub, home: Path, *asked: dict[str, Any], action: str = "run", token: str | None = None) -> list[Any]:
    """Run fetch (or its check) once for each set of variables, in one process whose clients talk to `hub`."""
    env = {k: v for k, v in os.environ.items() if k != "HF_TOKEN"} | hub.env(home / "hf")
    jobs = []
    for number, variables in enumerate(asked):
        given = {"WORK_DIR": str(home / f"work{number}"), "TRANSCRIBE": "never", **variables} | (
            {"HF_TOKEN": token} if token else {}
        )
        jobs.append({"call": action, "variables": {k: str(v) for k, v in given.items()}})
    done = subprocess.run(
        [sys.executable, "-c", CODE], input=json.dumps(jobs), env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if token:
        assert token not in done.stdout + done.stderr
    return [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]


def manifest(home: Path, number: int, split: str = "train") -> list[dict[str, Any]]:
    path = home / f"work{number}" / "data" / "raw" / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def clip(seed: int, kind: str = "FLAC", seconds: float = 0.5) -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(seed).normal(0, 0.1, int(16000 * seconds)).astype(np.float32)
    soundfile.write(buffer, samples, 16000, format=kind)
    return buffer.getvalue()


def table(rows: dict[str, list[Any]], features: dict[str, Any] | None = None) -> bytes:
    """A Parquet file as `datasets` uploads it, features in its metadata when given."""
    built = pa.table(rows)
    if features:
        described = json.dumps({"info": {"features": features}})
        built = built.replace_schema_metadata({"huggingface": described})
    buffer = io.BytesIO()
    parquet.write_table(built, buffer, row_group_size=2)
    return buffer.getvalue()


CLIPS = [clip(n, kind) for n, kind in enumerate(("FLAC", "MP3", "OGG", "WAV", "FLAC"))]
FEATURES = {
    "recording": {"_type": "Audio", "sampling_rate": 16000},
    "sentence": {"dtype": "string", "_type": "Value"},
    "who": {"names": ["Eva", "Adam"], "_type": "ClassLabel"},
    "other": {"_type": "Audio"},
}


def voices(count: int = 5) -> bytes:
    sound = [{"bytes": data, "path": "x.flac"} for data in CLIPS[:count]]
    who = pa.array([0, 1, 0, 1, 0][:count], pa.int64())
    sentences = ["one", "", "three", "four", "five"][:count]
    return table({"recording": sound, "sentence": sentences, "who": who, "other": sound}, FEATURES)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.mark.slow
def test_a_private_parquet_dataset_arrives_byte_for_byte(hub: Hub, tmp_path: Path) -> None:
    shards = {"data/train-00000-of-00001.parquet": voices(), "data/test-00000-of-00001.parquet": voices(3)}
    hub.add_repo("dataset", "alice/voices", shards, private=True)
    whole = {"DATASET_NAME": "alice/voices", "VALIDATION_SPLIT": "test", "SPEAKER_COLUMN": "who"}
    direct = {**whole, "DATA_MODE": "direct", "MAX_EVAL_SAMPLES": 1}
    answers = call(hub, tmp_path, whole, direct, {**whole, "TRAIN_SPLIT": "train[:40%]"}, token=READ)
    counts = {"rejected": 2, "speakers": 2, "source": "DATASET_NAME=alice/voices"}
    counts["revision"] = hub.repos["dataset", "alice/voices"].head.oid
    assert answers[0]["value"] == {"train": 4, "validation": 2, **counts}
    assert answers[1]["value"] == {"train": 4, "validation": 1, **counts, "rejected": 1}
    assert answers[2]["value"] == {"train": 1, "validation": 2, **counts, "speakers": 1}
    for number in (0, 1):
        rows = manifest(tmp_path, number)
        assert [inside.read_bytes(Path(row["audio"])) for row in rows] == [CLIPS[0], *CLIPS[2:]]
        assert [Path(row["audio"]).suffix for row in rows] == [".flac", ".ogg", ".wav", ".flac"]
        assert [(row["text"], row["speaker"], row["row"]) for row in rows] == [
            ("one", "eva", 1),
            ("three", "eva", 3),
            ("four", "adam", 4),
            ("five", "eva", 5),
        ]
        assert [row["id"] for row in rows][:1] == ["voices-train-000001"]


@pytest.mark.slow
def test_check_names_columns_and_downloads_no_audio(hub: Hub, tmp_path: Path) -> None:
    sound = [{"bytes": np.random.default_rng(n).bytes(200_000), "path": None} for n in range(20)]
    data = table({"audio": sound, "text": ["x"] * 20})
    hub.add_repo("dataset", "alice/big", {"data/train-00000-of-00001.parquet": data})
    good = {"DATASET_NAME": "alice/big"}
    wrong = ({**good, "TEXT_COLUMN": "words"}, {**good, "TRAIN_SPLIT": "dev"})
    answers = call(hub, tmp_path, good, *wrong, action="check")
    assert answers[0]["value"].startswith("DATASET_NAME=alice/big: ")
    assert "text in text, audio in audio" in answers[0]["value"]
    assert answers[1]["error"].startswith("TEXT_COLUMN=words: no row of DATASET_NAME=alice/big split train")
    assert answers[1]["error"].endswith("it has audio, text")
    assert answers[2]["error"] == "TRAIN_SPLIT=dev: alice/big has no such split; it has train"
    sent = [{k.lower(): v for k, v in r.headers.items()} for r in hub.seen("GET", "/_cdn/")]
    assert all("range" in headers for headers in sent), "no file was asked for whole"
    asked = [tuple(map(int, headers["range"].removeprefix("bytes=").split("-"))) for headers in sent]
    assert asked, "the footer was read"
    assert sum(last - first + 1 for first, last in asked) < len(data) / 4
    assert not list(tmp_path.glob("work*")), "check writes nothing"


@pytest.mark.slow
def test_bounded_runs_stream_and_stop_early(hub: Hub, tmp_path: Path) -> None:
    sound = [{"bytes": clip(n, "WAV", 4.0), "path": None} for n in range(64)]
    data = table({"audio": sound, "text": ["x"] * 64})
    hub.add_repo("dataset", "alice/long", {"data/train-00000-of-00001.parquet": data})
    asked = {"DATASET_NAME": "alice/long", "MAX_TRAIN_SAMPLES": 3}
    answers = call(hub, tmp_path, asked, {"DATASET_NAME": "alice/long", "MAX_HOURS": 9 / 3600})
    assert answers[0]["value"]["train"] == 3
    assert answers[1]["value"]["train"] == 2
    for number, count in ((0, 3), (1, 2)):
        packs = (tmp_path / f"work{number}" / "data" / "raw" / "audio").glob("*.pack")
        assert sum(path.stat().st_size for path in packs) <= (count + 1) * len(clip(0, "WAV", 4.0))
    assert not list((tmp_path / "hf").rglob("*.arrow")), "nothing was copied into the cache of datasets"


@pytest.mark.slow
def test_other_shapes_of_datasets(hub: Hub, tmp_path: Path) -> None:
    """audiofolder, an archive of audio, a sheet with paths into the repo, samples instead of files."""
    sheet = "file_name,transcription\na.flac,one\nb.mp3,two\n"
    hub.add_repo(
        "dataset", "alice/folder", {"train/metadata.csv": sheet, "train/a.flac": CLIPS[0], "train/b.mp3": CLIPS[1]}
    )
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for name, data in (("metadata.csv", sheet.encode()), ("a.flac", CLIPS[0]), ("b.mp3", CLIPS[1])):
            opened.writestr(name, data)
    hub.add_repo("dataset", "alice/zipped", {"train.zip": archive.getvalue()})
    paths = ("clips/a.flac", "b.mp3", "gone.wav", "/etc/passwd")
    lines = "".join(json.dumps({"path": path, "text": path}) + "\n" for path in paths)
    hub.add_repo(
        "dataset", "alice/paths", {"train.jsonl": lines, "clips/a.flac": CLIPS[0], "clips/deep/b.mp3": CLIPS[1]}
    )
    samples = table({"audio": [{"array": [0.0, 0.25] * 4000, "sampling_rate": 16000}], "text": ["x"]})
    hub.add_repo("dataset", "alice/samples", {"data/train-00000-of-00001.parquet": samples})
    names = ("folder", "zipped", "paths", "samples")
    answers = call(hub, tmp_path, *({"DATASET_NAME": f"alice/{name}"} for name in names))
    assert [answer.get("value", answer).get("train") for answer in answers] == [2, 2, 2, 1], answers
    for number in range(3):
        assert [inside.read_bytes(Path(row["audio"])) for row in manifest(tmp_path, number)] == CLIPS[:2]
    rejected = (tmp_path / "work2" / "data" / "raw" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["reason"] for line in rejected] == ["audio is missing"] * 2
    written, rate = soundfile.read(inside.readable(Path(manifest(tmp_path, 3)[0]["audio"])))
    assert (rate, written[:2].tolist()) == (16000, [0.0, 0.25])


@pytest.mark.slow
def test_configurations_revisions_and_a_missing_jsonl_that_gives_way(hub: Hub, tmp_path: Path) -> None:
    readme = """---
configs:
- config_name: nb
  data_files: no/*.parquet
- config_name: ha
  data_files: ha/*.parquet
---
"""
    files = {"README.md": readme, "no/train.parquet": voices(1), "ha/train.parquet": voices(3)}
    hub.add_repo("dataset", "alice/two", files)
    base = {"DATASET_NAME": "alice/two"}
    missing = {"VALIDATION_JSONL": str(tmp_path / "v.jsonl")}
    answers = call(
        hub,
        tmp_path,
        {**base, "DATASET_CONFIG": "ha"},
        base,
        {**base, "DATASET_CONFIG": "xx"},
        {**base, "DATASET_CONFIG": "ha", "DATASET_REVISION": "main"},
        {**base, "DATASET_CONFIG": "ha", "DATASET_REVISION": "v9"},
        {**base, "DATASET_CONFIG": "ha", **missing, "TRAIN_JSONL": str(tmp_path / "t.jsonl")},
        {**base, "DATASET_CONFIG": "ha", **missing},
        {"DATASETS": "alice/two:ha@main#train rows=1\nalice/two:nb"},
        {"DATASETS": "alice/two:ha|alice/two:xx"},
    )
    assert answers[0]["value"]["train"] == 2
    assert (
        answers[1]["error"] == "DATASET_NAME=alice/two has several configurations: set DATASET_CONFIG to one of nb, ha"
    )
    assert answers[2]["error"].startswith("DATASET_CONFIG=xx: alice/two has only nb, ha")
    assert answers[3]["value"]["train"] == 2
    assert answers[4]["error"] == "DATASET_REVISION=v9: alice/two has no such revision"
    assert answers[5]["value"]["train"] == 2
    assert answers[6]["error"].startswith("VALIDATION_JSONL=")
    assert [row["source"] for row in manifest(tmp_path, 7)] == ["alice/two:ha@main#train", "alice/two:nb"]
    assert answers[8]["error"].startswith("DATASETS: alice/two:xx: DATASET_CONFIG=xx: alice/two has only nb, ha")


@pytest.mark.slow
def test_failures_are_one_line_with_the_fix(hub: Hub, tmp_path: Path) -> None:
    hub.add_repo("dataset", "bob/secret", {"data/train.parquet": voices(1)}, private=True)
    hub.add_repo("dataset", "alice/script", {"script.py": "import datasets\n"})
    hub.add_repo("dataset", "alice/empty", {"README.md": "nothing"})
    names = ("alice/gone", "bob/secret", "alice/script", "alice/empty", "no such/name", str(tmp_path))
    for token in (None, READ):
        answers = call(hub, tmp_path, *({"DATASET_NAME": name} for name in names), token=token)
        assert [answer.get("kind") for answer in answers] == ["BadInput"] * len(names), answers
        errors = [answer["error"] for answer in answers]
        assert all("\n" not in error and "DATASET_NAME" in error for error in errors)
        assert "HF_TOKEN" in errors[0]
        assert "HF_TOKEN" in errors[1]
        assert "set DATASET_TRUST_REMOTE_CODE=true" in errors[2]
        assert "no data files" in errors[3]
        assert "DATA_DIR" in errors[5]


def test_an_ailing_hub_is_to_be_tried_again(hub: Hub, tmp_path: Path) -> None:
    hub.add_repo("dataset", "alice/voices", {"data/train.parquet": voices(1)})
    hub.fail("GET", "/api/datasets", status=503, times=1000)
    (answer,) = call(hub, tmp_path, {"DATASET_NAME": "alice/voices"})
    assert answer["error"] == "DATASET_NAME=alice/voices: the Hub answers 503; run the same command again later"
    assert answer["kind"] == "Unreachable"


@pytest.mark.slow
def test_an_unreachable_hub_is_to_be_tried_again(tmp_path: Path) -> None:
    with Hub() as hub:
        pass
    (answer,) = call(hub, tmp_path, {"DATASET_NAME": "alice/voices"})
    assert answer["kind"] == "Unreachable", "exit 1: Kubernetes and systemd try again, which they do not after a 2"
    assert "check the network" in answer["error"]


BASE = """
from job.config import settings
from job.model import loading
try:
    loading.base_directory(settings.load({"INIT_MODEL_PATH": "alice/base", "SPEAKER_NAME": "x"}))
except Exception as error:
    print(error.exit_code, "INIT_MODEL_PATH=alice/base" in str(error))
"""


@pytest.mark.parametrize(
    ("outage", "code"), [({}, 2), ({"HF_HUB_OFFLINE": "1"}, 2), ({"HF_ENDPOINT": "http://127.0.0.1:9"}, 1)]
)
def test_a_base_that_is_not_there_is_refused_and_one_out_of_reach_tried_again(
    hub: Hub, tmp_path: Path, outage: dict[str, str], code: int
) -> None:
    """A pod whose network comes up a second late must not fail its Job for good."""
    env = {k: v for k, v in os.environ.items() if k != "HF_TOKEN"} | hub.env(tmp_path) | outage
    done = subprocess.run([sys.executable, "-c", BASE], env=env, capture_output=True, text=True, timeout=100)
    assert done.stdout == f"{code} True\n", done.stderr


@pytest.mark.slow
def test_a_new_commit_is_fetched_by_the_next_run_and_an_old_one_is_not(hub: Hub, tmp_path: Path) -> None:
    """The nightly run: nothing to do while the dataset stays as it is or the Hub is away, new rows when they come."""
    path = "data/train-00000-of-00001.parquet"
    hub.add_repo("dataset", "alice/voices", {path: voices(3)})
    given = {"DATASET_NAME": "alice/voices", "WORK_DIR": str(tmp_path / "work"), "INIT_MODEL_PATH": "demo"}
    env = {k: v for k, v in os.environ.items() if k != "HF_TOKEN"} | hub.env(tmp_path / "hf") | given

    def night(**more: str) -> tuple[str, int]:
        done = subprocess.run(
            [sys.executable, "-m", "job", "fetch"], env=env | more, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, len((tmp_path / "work/data/raw/train.jsonl").read_text().splitlines())

    said, rows = night()
    assert "[fetch] done" in said and rows == 2  # one of three has no text
    said, rows = night()
    assert "nothing to do" in said and rows == 2
    hub.add_repo("dataset", "alice/voices", {path: voices(5)})
    said, rows = night()
    assert "[fetch] done" in said and rows == 4
    said, _ = night(HF_ENDPOINT="http://127.0.0.1:1")
    assert "nothing to do" in said


@pytest.mark.slow
def test_validation_rows_beside_a_dataset_may_lie_in_a_bucket_or_in_shards(
    hub: Hub, tmp_path: Path, bucket: Bucket
) -> None:
    """They take the place of the dataset's own, and a value that names nothing is refused."""
    hub.add_repo("dataset", "alice/voices", {"data/train-0.parquet": voices(), "data/test-0.parquet": voices(3)})
    rows = table({"audio": [{"bytes": clip(9), "path": "x.flac"}], "text": ["it is mine"]})
    bucket.objects["check/rows.parquet"] = rows
    (tmp_path / "check-0.parquet").write_bytes(rows)
    named = ("s3://voices/check/rows.parquet", tmp_path / "check-*.parquet", tmp_path / "none.jsonl")
    asked = [{"DATASET_NAME": "alice/voices", "VALIDATION_SPLIT": "test", "VALIDATION_JSONL": one} for one in named]
    answers = call(hub, tmp_path, *asked, {**asked[2], "TRAIN_JSONL": tmp_path / "none either.jsonl"})
    for number in range(2):
        assert [row["text"] for row in manifest(tmp_path, number, "validation")] == ["it is mine"], named[number]
    assert answers[2]["error"].startswith(f"VALIDATION_JSONL={named[2]}: no such file")
    assert [row["text"] for row in manifest(tmp_path, 3, "validation")] == ["one", "three"], "neither file is there"
