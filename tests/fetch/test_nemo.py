"""NeMo's manifests and tars: each row gets its own recording, read where it lies, or is left out by its number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from job import fetch
from job.config import settings as variables
from job.core import inside
from job.core.errors import BadInput
from tests.fetch.conftest import write_audio, write_lines
from tests.fetch.test_sharded import tar
from tests.support.bucket import Bucket

PATTERN = "audio__OP_0..1_CL_.tar"


@pytest.fixture
def sounds(tmp_path: Path) -> list[bytes]:
    """Five recordings of one second and more, all different."""
    return [write_audio(tmp_path / f"{n}.wav", 1.0 + n / 10, seed=n).read_bytes() for n in range(5)]


def rows_of(first: int, count: int, shard: int | None) -> list[dict[str, Any]]:
    """Rows as `convert_to_tarred_audio_dataset.py` writes them."""
    more = {} if shard is None else {"shard_id": shard}
    return [
        {
            "audio_filepath": f"clips_{n}.wav", "duration": 1.0 + n / 10, "text": f"This is sentence number {n}.",
            "lang": "en", **more,
        }
        for n in range(first, first + count)
    ]  # fmt: skip


def sharded(top: Path, sounds: list[bytes]) -> Path:
    """Two tars of two and three recordings, a manifest of both, and one of each in a folder of their own."""
    top.mkdir()
    (top / "audio_0.tar").write_bytes(tar({f"clips_{n}.wav": sounds[n] for n in (1, 0)}))
    (top / "audio_1.tar").write_bytes(tar({f"clips_{n}.wav": sounds[n] for n in (2, 3, 4)}))
    write_lines(top / "tarred_audio_manifest.json", [*rows_of(0, 2, 0), *rows_of(2, 3, 1)])
    write_lines(top / "sharded_manifests" / "manifest_0.json", rows_of(0, 2, None))
    write_lines(top / "sharded_manifests" / "manifest_1.json", rows_of(2, 3, None))
    return top


@pytest.mark.parametrize(
    "named",
    [
        {"TRAIN_JSONL": "tarred_audio_manifest.json"},
        {"TRAIN_JSONL": "sharded_manifests/manifest__OP_0..1_CL_.json"},
        {"TRAIN_JSONL": "sharded_manifests/manifest_{0..1}.json"},
        {"TRAIN_JSONL": "sharded_manifests/manifest_*.json"},
        {"DATA_DIR": "."},
    ],
    ids=lambda named: next(iter(named.values())),
)
def test_each_row_gets_the_recording_of_its_name(
    tmp_path: Path, fetched: Any, sounds: list[bytes], named: dict[str, str]
) -> None:
    """By the manifest of all tars, by those of each, or by the folder; no recording is copied."""
    top = sharded(tmp_path / "tarred", sounds)
    got = fetched(**{name: top / value for name, value in named.items()})
    assert got["rejected"] == []
    assert [row["text"] for row in got["train"]] == [row["text"] for row in rows_of(0, 5, None)]
    assert [inside.read_bytes(Path(row["audio"])) for row in got["train"]] == sounds
    assert {Path(row["audio"]).parent.parent for row in got["train"]} == {top}
    assert {row["language"] for row in got["train"]} == {"en"}

    before = (tmp_path / "work" / "data" / "raw" / "train.jsonl").read_bytes()
    (top / "audio_0.tar").write_bytes(tar({f"clips_{n}.wav": sounds[n] for n in (0, 1)}))  # other places in it
    again = fetched(**{name: top / value for name, value in named.items()})
    assert (tmp_path / "work" / "data" / "raw" / "train.jsonl").read_bytes() != before
    assert [inside.read_bytes(Path(row["audio"])) for row in again["train"]] == sounds


def test_parts_of_a_recording_and_faults_of_rows(tmp_path: Path, fetched: Any, sounds: list[bytes]) -> None:
    """`-sub1` names a further part of a recording that the tar has once; what is not there is left out by row."""
    top = sharded(tmp_path / "tarred", sounds)
    rows = rows_of(2, 3, 1)
    rows[0] |= {"duration": 0.5, "offset": 0.0}
    rows.insert(1, {**rows[0], "audio_filepath": "clips_2-sub1.wav", "offset": 0.6, "text": "The second half of it."})
    rows += [{**rows[2], "shard_id": "x"}, {**rows[2], "audio_filepath": "nothing.wav"}, {**rows[2], "shard_id": None}]
    got = fetched(TRAIN_JSONL=write_lines(top / "tarred_audio_manifest.json", rows))
    parts = [(row.get("start") or 0.0, row.get("end")) for row in got["train"][:2]]
    assert parts == [(0.0, 0.5), (0.6, pytest.approx(1.1))]
    assert len({row["audio"] for row in got["train"][:2]}) == 1 and len(got["train"]) == 4
    reasons = {row["row"]: row["reason"] for row in got["rejected"]}
    assert set(reasons) == {5, 6, 7}
    assert "audio is missing" in json.dumps(reasons[6]) and "no tar of this number" in json.dumps(reasons[5])


def test_missing_and_doubled_files_are_one_line(tmp_path: Path, sounds: list[bytes]) -> None:
    """A manifest or a tar of a range that is not there, two tars of one number, a tar that is cut off."""

    def refused(path: Path) -> str:
        with pytest.raises(BadInput) as caught:
            fetch.run(variables.load({"WORK_DIR": str(tmp_path / "work"), "TRAIN_JSONL": str(path)}))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    top = sharded(tmp_path / "tarred", sounds)
    assert "manifest_2.json is missing" in refused(top / "sharded_manifests" / "manifest__OP_0..2_CL_.json")
    whole = (top / "audio_1.tar").read_bytes()
    (top / "audio_1.tar").write_bytes(whole[:2000])
    assert "audio_1.tar" in refused(top / "tarred_audio_manifest.json")
    (top / "audio_1.tar").write_bytes(whole)
    (top / "other_1.tar").write_bytes(whole)
    assert "audio_1.tar and other_1.tar are both tar 1" in refused(top / "tarred_audio_manifest.json")


@pytest.mark.parametrize("gone", [["audio_1.tar"], ["audio_0.tar", "audio_1.tar"]], ids=["one", "all"])
@pytest.mark.parametrize(
    "named",
    [
        {"TRAIN_JSONL": "tarred_audio_manifest.json"},
        {"TRAIN_JSONL": "renamed.json"},
        {"TRAIN_JSONL": "sharded_manifests/manifest_*.json"},
        {"DATASETS": "tarred_audio_manifest.json"},
    ],
    ids=lambda named: " ".join(next(iter(named.items()))),
)
def test_a_missing_tar_is_a_wrong_path_and_no_bad_row(
    tmp_path: Path, fetched: Any, sounds: list[bytes], named: dict[str, str], gone: list[str]
) -> None:
    """It ends the run with its name, also where other data is left: to go on would be to train on half of it."""
    top = sharded(tmp_path / "tarred", sounds)
    write_lines(top / "renamed.json", [*rows_of(0, 2, 0), *rows_of(2, 3, 1)])
    for name in gone:
        (top / name).unlink()
    here = write_lines(tmp_path / "rows.jsonl", [{"audio": "0.wav", "text": "It is here."}])
    given = {key: f"{top / value}|{here}" if key == "DATASETS" else str(top / value) for key, value in named.items()}
    more = ", and 1 more" if len(gone) > 1 else ""
    for function in (fetch.check, fetch.run):
        with pytest.raises(BadInput) as caught:
            function(variables.load({"WORK_DIR": str(tmp_path / "work"), **given}))
        assert f"{gone[0]} is missing in {top}{more}; put" in str(caught.value)
    assert not list((tmp_path / "work").rglob("*.jsonl")), "nothing is read before"


def test_a_key_of_that_name_makes_no_tarred_manifest_of_ordinary_rows(
    tmp_path: Path, fetched: Any, sounds: list[bytes]
) -> None:
    """A recording that is missing is still one row that is left out."""
    rows = [{**row, "audio_filepath": f"{n - 1}.wav"} for n, row in enumerate(rows_of(0, 4, 3))]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "rows.jsonl", rows))
    assert len(got["train"]) == 3 and [row["reason"] for row in got["rejected"]] == ["audio is missing"]


@pytest.mark.parametrize(("name", "file"), [("amber", "amber.wav"), ("Amber.WAV", "amber.wav")])
def test_ordinary_rows_with_such_a_key_are_found_however_they_spell_their_recording(
    tmp_path: Path, fetched: Any, name: str, file: str
) -> None:
    write_audio(tmp_path / "in" / file)
    rows = [{"audio_filepath": name, "text": "It is said in it.", "shard_id": 0}]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "in" / "rows.jsonl", rows))
    assert [row["audio"] for row in got["train"]] == [str(tmp_path / "in" / file)]


@pytest.mark.parametrize("name", ["a" * 300 + ".wav", "a" * 5000 + ".wav", "a\0.wav"], ids=["name", "path", "nul"])
def test_a_name_that_no_disk_takes_is_a_row_left_out(tmp_path: Path, fetched: Any, name: str) -> None:
    write_audio(tmp_path / "in" / "b.wav")
    rows = [{"audio_filepath": one, "text": "It is said in it."} for one in (name, "b.wav")]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "in" / "rows.jsonl", rows))
    assert [row["row"] for row in got["train"]] == [2] and [row["row"] for row in got["rejected"]] == [1]


def test_a_manifest_of_another_split_is_not_trained_on(tmp_path: Path, fetched: Any, sounds: list[bytes]) -> None:
    """Nor is one that lies there by the name of no split, where one is called train."""
    top = sharded(tmp_path / "tarred", sounds)
    (top / "tarred_audio_manifest.json").unlink()
    for name, rows in (("train", rows_of(0, 2, 0)), ("dev", rows_of(2, 3, 1)), ("all", rows_of(2, 1, 1))):
        write_lines(top / f"nemo_{name}.json", rows)
    assert [row["text"] for row in fetched(DATA_DIR=top)["train"]] == [row["text"] for row in rows_of(0, 2, 0)]
    (top / "nemo_train.json").unlink()
    assert [row["text"] for row in fetched(DATA_DIR=top)["train"]] == [row["text"] for row in rows_of(2, 1, 1)]


def test_manifests_in_a_bucket(tmp_path: Path, fetched: Any, bucket: Bucket, sounds: list[bytes]) -> None:
    """One of files is read as here; one of tars with its folder, which is copied, or it is said how."""
    row = json.dumps({"audio_filepath": "a.wav", "duration": 1.0, "text": "It is said in it."}).encode()
    bucket.objects |= {"m/a.wav": sounds[0], "m/manifest.json": b"\n{broken\n" + row}
    for named in ({"DATA_DIR": "S3://voices/m"}, {"TRAIN_JSONL": "s3://voices/m/manifest.json"}):
        assert [one["text"] for one in fetched(**named)["train"]] == ["It is said in it."]
    for path in sharded(tmp_path / "tarred", sounds).rglob("*.*"):
        bucket.objects[f"t/{path.relative_to(tmp_path / 'tarred')}"] = path.read_bytes()
    for named in ({"DATA_DIR": "s3://voices/t"}, {"DATASETS": "s3://voices/t"}):
        got = fetched(**named)
        assert [row["text"] for row in got["train"]] == [row["text"] for row in rows_of(0, 5, None)]
        assert [inside.read_bytes(Path(row["audio"])) for row in got["train"]] == sounds
        bucket.seen.clear()
    fetched(**named)
    assert not [key for method, key in bucket.seen if method == "GET" and key], "each file is fetched once"
    for named in ({"TRAIN_JSONL": "s3://voices/t"}, {"TRAIN_JSONL": "s3://voices/t/tarred_audio_manifest.json"}):
        with pytest.raises(BadInput, match=r"are read by DATA_DIR: the folder with tarred_audio_manifest\.json and"):
            fetched(**named)
    del bucket.objects["t/audio_1.tar"]
    with pytest.raises(BadInput, match=r"^DATA_DIR=s3://voices/t: audio_1\.tar is missing in "):
        fetched(DATA_DIR="s3://voices/t")


def test_what_cannot_be_read_says_what_can(tmp_path: Path, fetched: Any, sounds: list[bytes]) -> None:
    """A folder with nothing but a manifest in it, and an address of a kind that is not read."""
    write_lines(tmp_path / "only" / "manifest.json", rows_of(0, 2, None))
    with pytest.raises(BadInput, match=r"manifest\.json goes into TRAIN_JSONL"):
        fetched(DATA_DIR=tmp_path / "only")
    for variable in ("DATA_DIR", "TRAIN_JSONL"):
        with pytest.raises(BadInput, match="https:// is not read, but s3://, gs:// and hf://datasets/ are"):
            fetched(**{variable: "https://bucket.example/m.json"})


def test_a_range_names_tars_without_a_manifest_too(tmp_path: Path, fetched: Any, sounds: list[bytes]) -> None:
    for n in range(2):
        (tmp_path / f"audio_{n}.tar").write_bytes(tar({"a.wav": sounds[n], "a.txt": f"Sentence number {n}."}))
    assert [row["text"] for row in fetched(TRAIN_JSONL=tmp_path / PATTERN)["train"]] == [
        "Sentence number 0.",
        "Sentence number 1.",
    ]
    with pytest.raises(BadInput, match=r"audio_2.tar is missing, and 1 more$"):
        fetched(TRAIN_JSONL=tmp_path / PATTERN.replace("0..1", "0..3"))


def test_several_manifests_of_a_folder_are_one_source(tmp_path: Path, fetched: Any, sounds: list[bytes]) -> None:
    """As NeMo Curator writes them, with paths relative to the folder; rows say which one they are from."""
    top = tmp_path / "curated"
    for name, first in (("a1b2.jsonl", 0), ("c3d4.jsonl", 2)):
        write_lines(top / name, [*rows_of(first, 2, None), "{"])
    for n in range(4):
        (top / f"clips_{n}.wav").write_bytes(sounds[n])
    got = fetched(TRAIN_JSONL=top / "*.jsonl")
    assert [(row["source"], row["row"]) for row in got["train"]] == [
        ("a1b2.jsonl", 1), ("a1b2.jsonl", 2), ("c3d4.jsonl", 1), ("c3d4.jsonl", 2),
    ]  # fmt: skip
    assert [row["audio"] for row in got["train"]] == [str(top / f"clips_{n}.wav") for n in range(4)]
    assert [(row["source"], row["row"]) for row in got["rejected"]] == [("a1b2.jsonl", 3), ("c3d4.jsonl", 3)]
    (tmp_path / "other").mkdir()
    write_lines(tmp_path / "other" / "e.jsonl", rows_of(0, 1, None))
    with pytest.raises(BadInput, match="JSONL files of several folders"):
        fetched(TRAIN_JSONL=tmp_path / "*" / "*.jsonl")


def test_a_folder_with_recordings_and_their_manifest_is_read_by_it(
    tmp_path: Path, fetched: Any, sounds: list[bytes]
) -> None:
    """NeMo calls it `.json`; paths are relative to it, and rows that name parts of a recording are cut."""
    top = tmp_path / "corpus"
    rows = [{**row, "audio_filepath": f"clips/{n}.wav", "speaker": "ann"} for n, row in enumerate(rows_of(0, 4, None))]
    rows.append({**rows.pop(), "offset": 0.7, "duration": 0.5})
    rows.append({**rows[-1], "offset": 0.0, "text": "What was said before it."})
    write_lines(top / "train_manifest.json", rows)
    for n in range(4):
        (top / "clips").mkdir(exist_ok=True)
        (top / "clips" / f"{n}.wav").write_bytes(sounds[n])
    got = fetched(DATA_DIR=top)
    assert got["rejected"] == []
    assert [row["audio"] for row in got["train"]] == [str(top / "clips" / f"{min(n, 3)}.wav") for n in range(5)]
    assert [(row.get("start"), row.get("end")) for row in got["train"][3:]] == [
        (0.7, pytest.approx(1.2)),
        (0.0, pytest.approx(0.5)),
    ]
    assert {row["speaker"] for row in got["train"]} == {"ann"}
