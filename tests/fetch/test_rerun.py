"""A run that comes again after the recordings were completed: what was missing is taken in, and nothing else is redone.

Nightly runs and people who read the list of rejected rows rely on it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from job import pipeline
from job.config import settings as variables
from job.core import files
from tests.fetch.conftest import write_audio, write_lines
from tests.fetch.test_sharded import night
from tests.support.bucket import Bucket


@pytest.fixture
def again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the fetch stage as a run does; returns what it said and the texts of its rows."""

    def run(**values: Any) -> tuple[str, list[str]]:
        loaded = variables.load({"WORK_DIR": str(tmp_path / "work"), **{k: str(v) for k, v in values.items()}})
        pipeline.run(loaded, "fetch", "fetch")
        return capsys.readouterr().out, [row["text"] for row in files.read_jsonl(loaded.paths.manifest("train"))]

    return run


@pytest.mark.parametrize("there", [False, True])
def test_a_recording_that_was_missing_or_empty_is_taken_in_when_it_comes(
    tmp_path: Path, again: Any, there: bool
) -> None:
    write_audio(tmp_path / "a.wav")
    if there:
        (tmp_path / "late.wav").touch()  # a copy that has just begun
    rows = [{"audio": "a.wav", "text": "one"}, {"audio": "late.wav", "text": "two"}, {"audio": "x" * 300, "text": "-"}]
    path = write_lines(tmp_path / "t.jsonl", rows)
    assert again(TRAIN_JSONL=path)[1] == ["one"]
    assert "nothing to do" in again(TRAIN_JSONL=path)[0], "what is still missing is no reason"
    write_audio(tmp_path / "late.wav", seed=1)
    said, texts = again(TRAIN_JSONL=path)
    assert f"{tmp_path / 'late.wav'} has been added or changed since the last run" in said
    assert texts == ["one", "two"]
    assert "nothing to do" in again(TRAIN_JSONL=path)[0]


def test_a_new_recording_in_a_linked_folder_is_noticed(tmp_path: Path, again: Any) -> None:
    share, root = tmp_path / "share", tmp_path / "voice"
    write_audio(share / "a.wav").with_suffix(".txt").write_text("one", encoding="utf-8")
    root.mkdir()
    (root / "chapter").symlink_to(share)
    assert again(DATA_DIR=root)[1] == ["one"]
    write_audio(share / "b.wav", seed=1).with_suffix(".txt").write_text("two", encoding="utf-8")
    assert again(DATA_DIR=root)[1] == ["one", "two"]
    assert "nothing to do" in again(DATA_DIR=root)[0]


def test_a_table_that_comes_to_a_folder_of_shards_is_noticed(tmp_path: Path, again: Any) -> None:
    """It is read instead of the shards, so their being as they were says nothing."""
    root = tmp_path / "voice"
    write_audio(root / "a.wav")
    (root / "night-1.tar").write_bytes(night(1))
    assert again(DATA_DIR=root)[1] == ["Said at night.", "Said in the dark."]
    write_lines(root / "metadata.jsonl", [{"file_name": "a.wav", "text": "one"}])
    assert again(DATA_DIR=root)[1] == ["one"]
    write_lines(root / "metadata.jsonl", [{"file_name": "a.wav", "text": "one, mended"}])
    assert again(DATA_DIR=root)[1] == ["one, mended"]
    assert "nothing to do" in again(DATA_DIR=root)[0]


def test_a_new_row_behind_a_tilde_is_noticed(tmp_path: Path, again: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `.env` file and `docker -e` leave `~` as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_audio(tmp_path / "a.wav")
    write_audio(tmp_path / "b.wav")
    write_lines(tmp_path / "t.jsonl", [{"audio": "~/a.wav", "text": "one"}])
    assert again(TRAIN_JSONL="~/t.jsonl")[1] == ["one"]
    write_lines(tmp_path / "t.jsonl", [{"audio": "~/a.wav", "text": "one"}, {"audio": "b.wav", "text": "two"}])
    assert again(TRAIN_JSONL="~/t.jsonl")[1] == ["one", "two"]


@pytest.mark.parametrize(
    "late",
    [
        "b.lab",
        "b.json",
        *(pytest.param(other, marks=pytest.mark.thorough) for other in ("b.wav.txt", "b.normalized.txt")),
    ],
)
def test_a_text_that_comes_late_is_taken_in(tmp_path: Path, again: Any, late: str) -> None:
    root = tmp_path / "voice"
    write_audio(root / "a.wav").with_suffix(".txt").write_text("one", encoding="utf-8")
    write_audio(root / "b.wav", seed=1)
    assert again(DATA_DIR=root)[1] == ["one"]
    text = '{"text": "two"}' if late.endswith(".json") else "two"
    (root / late).write_text(text, encoding="utf-8")
    assert again(DATA_DIR=root)[1] == ["one", "two"]
    assert "nothing to do" in again(DATA_DIR=root)[0]


@pytest.mark.parametrize(
    "name", ["late.flac", *(pytest.param(other, marks=pytest.mark.thorough) for other in ("late.wav", "late.ogg"))]
)
def test_a_recording_named_without_its_ending_is_taken_in_when_it_comes(tmp_path: Path, again: Any, name: str) -> None:
    """Of a table and of a Kaldi directory that name audio elsewhere."""
    write_audio(tmp_path / "clips" / "a.wav")
    path = write_lines(tmp_path / "t.jsonl", [{"audio": f"clips/{n}", "text": n} for n in ("a", "late")])
    data = tmp_path / "kaldi"
    data.mkdir()
    (data / "wav.scp").write_text("a clips/a.wav\nlate clips/late\n", encoding="utf-8")
    (data / "text").write_text("a one\nlate two\n", encoding="utf-8")
    assert again(TRAIN_JSONL=path)[1] == ["a"]
    write_audio(tmp_path / "clips" / name, seed=1)
    assert again(TRAIN_JSONL=path)[1] == ["a", "late"]
    (tmp_path / "clips" / name).unlink()
    assert again(DATA_DIR=data)[1] == ["one"]
    write_audio(tmp_path / "clips" / name, seed=1)
    assert again(DATA_DIR=data)[1] == ["one", "two"]


@pytest.mark.parametrize(
    "beside",
    [
        "DATASETS",
        "nothing",
        *(pytest.param(one, marks=pytest.mark.thorough) for one in ("TRAIN_JSONL", "DATA_DIR", "a bucket in DATASETS")),
    ],
)
def test_validation_rows_that_are_edited_in_a_bucket_are_noticed(
    tmp_path: Path, again: Any, bucket: Bucket, beside: str
) -> None:
    """Whatever the training rows are read from: a nightly run would go on choosing its checkpoints by the old ones."""
    root = tmp_path / "voice"
    write_audio(root / "a.wav")
    rows = write_lines(root / "metadata.jsonl", [{"file_name": "a.wav", "text": "one"}])
    bucket.objects["nights/night-1.tar"] = night(1)
    bucket.objects["check/b.wav"] = write_audio(tmp_path / "b.wav", seed=1).read_bytes()
    data = {"TRAIN_JSONL": rows, "DATA_DIR": root, "DATASETS": root}
    data = {beside: data[beside]} if beside in data else {"DATASETS": "s3://voices/nights"} if " " in beside else {}
    values = {**data, "VALIDATION_JSONL": "s3://voices/check/rows.jsonl"}
    manifest = tmp_path / "work" / "data" / "raw" / "validation.jsonl"
    for text in ("before", "after"):
        bucket.objects["check/rows.jsonl"] = json.dumps({"audio": "b.wav", "text": text}).encode()
        assert "nothing to do" not in again(**values)[0]
        assert [row["text"] for row in files.read_jsonl(manifest)] == [text]
        bucket.seen.clear()
        assert "nothing to do" in again(**values)[0]
        assert len([1 for method, key in bucket.seen if (method, key) == ("GET", "")]) <= 2 * (1 + (" " in beside))
