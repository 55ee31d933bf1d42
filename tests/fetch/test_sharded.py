"""Shards in object storage and here: what is read, that it is read once, and what failures say."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from job import fetch
from job.config import settings as variables
from job.core import buckets, inside
from job.core.errors import BadInput, Unreachable
from tests.fetch.test_hub import CLIPS, call, clip, manifest
from tests.hub.server import READ, Hub
from tests.support.bucket import Bucket
from tests.support.google import GoogleBucket

ENDINGS = ("flac", "mp3", "ogg", "wav", "flac")


def table(first: int, rows: int, **more: list[Any]) -> bytes:
    """A Parquet shard as `datasets` writes it, with clips of their own."""
    numbers = range(first, first + rows)
    sound = [{"bytes": clip(n, "FLAC"), "path": f"{n}.flac"} for n in numbers]
    buffer = io.BytesIO()
    columns = {"audio": sound, "text": [f"It is number {n}." for n in numbers], **more}
    parquet.write_table(pa.table(columns), buffer, row_group_size=2)
    return buffer.getvalue()


def tar(members: dict[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def night(number: int) -> bytes:
    described = json.dumps({"text": "Said in the dark.", "speaker": "ann", "language": "English"})
    return tar(
        {
            f"n{number}/a.flac": clip(10 * number),
            f"n{number}/a.txt": "Said at night.",
            f"n{number}/b.wav": clip(10 * number + 1, "WAV"),
            f"n{number}/b.json": described,
        }
    )


def contents(rows: list[dict[str, Any]]) -> list[bytes]:
    return [inside.read_bytes(Path(row["audio"])) for row in rows]


def gets(bucket: Bucket) -> list[str]:
    found = [key for method, key in bucket.seen if method == "GET" and key]
    bucket.seen.clear()
    return found


def test_parquet_shards_of_a_bucket_are_fetched_once_and_new_ones_alone(fetched: Any, bucket: Bucket) -> None:
    bucket.objects |= {f"nights/train-{n}.parquet": table(10 * n, 3) for n in range(2)}
    bucket.objects["nights/validation-0.parquet"] = table(50, 2)
    got = fetched(TRAIN_JSONL="s3://voices/nights", VALIDATION_JSONL="s3://voices/nights/validation-0.parquet")
    assert contents(got["train"]) == [clip(n, "FLAC") for n in (0, 1, 2, 10, 11, 12)]
    assert [row["source"] for row in got["train"]] == ["train-0.parquet"] * 3 + ["train-1.parquet"] * 3
    assert [row["row"] for row in got["train"]] == [1, 2, 3, 1, 2, 3]
    assert contents(got["validation"]) == [clip(50, "FLAC"), clip(51, "FLAC")]
    work = got["settings"].paths.raw
    assert len([one for one in work.rglob("*") if one.is_file()]) < 12, "no file a row"
    gets(bucket)
    bucket.objects["nights/train-2.parquet"] = table(20, 3)
    again = fetched(TRAIN_JSONL="s3://voices/nights", VALIDATION_JSONL="s3://voices/nights/validation-0.parquet")
    assert again["train"][:6] == got["train"]
    assert contents(again["train"][6:]) == [clip(n, "FLAC") for n in (20, 21, 22)]
    asked = gets(bucket)
    assert asked.count("nights/train-2.parquet") == 1
    assert "nights/train-1.parquet" not in asked, "what is here is not fetched again"
    del bucket.objects["nights/train-0.parquet"]
    fewer = fetched(TRAIN_JSONL="s3://voices/nights")
    assert contents(fewer["train"]) == [clip(n, "FLAC") for n in (10, 11, 12, 20, 21, 22)]
    assert len(list((work / "shards").iterdir())) == 4, "copies of what is no longer read are removed"


def test_tars_of_a_bucket_are_read_where_they_lie(fetched: Any, bucket: Bucket) -> None:
    bucket.objects |= {f"a/night-{n}.tar": night(n) for n in range(3)}
    got = fetched(DATASETS="s3://voices/a/night-[01].tar weight=2")
    assert contents(got["train"]) == [clip(0), clip(1, "WAV"), clip(10), clip(11, "WAV")]
    assert [row["text"] for row in got["train"][:2]] == ["Said at night.", "Said in the dark."]
    assert [row["speaker"] for row in got["train"][:2]] == [None, "ann"]
    assert [row["source"] for row in got["train"]] == [
        "a/night-0.tar",
        "a/night-0.tar",
        "a/night-1.tar",
        "a/night-1.tar",
    ]
    copies = got["settings"].paths.raw / "shards"
    assert sorted(one.suffix for one in copies.iterdir()) == [".tar", ".tar"]
    gets(bucket)
    fetched(DATASETS="s3://voices/a/night-*.tar")
    assert gets(bucket).count("a/night-2.tar") == 1


@pytest.mark.parametrize("form", ["folder", "pattern", "file", "data_dir"])
def test_tars_on_this_machine_are_not_copied(tmp_path: Path, fetched: Any, form: str) -> None:
    for n in range(2):
        (tmp_path / "nights").mkdir(exist_ok=True)
        (tmp_path / "nights" / f"night-{n}.tar").write_bytes(night(n))
    where = {
        "folder": {"TRAIN_JSONL": tmp_path / "nights"},
        "pattern": {"TRAIN_JSONL": tmp_path / "nights" / "night-*.tar"},
        "file": {"TRAIN_JSONL": tmp_path / "nights" / "night-0.tar"},
        "data_dir": {"DATA_DIR": tmp_path / "nights"},
    }[form]
    got = fetched(**where)
    assert contents(got["train"])[:2] == [clip(0), clip(1, "WAV")]
    assert len(got["train"]) == (2 if form == "file" else 4)
    assert Path(got["train"][0]["audio"]).parent == tmp_path / "nights" / "night-0.tar"
    assert not list(got["settings"].paths.raw.rglob("*.pack"))
    assert "train rows (text in text, audio in audio)" in fetch.check(got["settings"])


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleBucket]:
    (tmp_path / "voices").mkdir()
    with GoogleBucket(tmp_path / "voices") as served:
        for name, value in served.env.items():
            monkeypatch.setenv(name, value)
        yield served


def test_google_cloud_storage_is_read_as_s3_is(fetched: Any, google: GoogleBucket, tmp_path: Path) -> None:
    """Through Google's own client: shards, tars, a table with recordings beside it; again only what is new."""
    objects = {f"nights/train-{n}.parquet": table(10 * n, 3) for n in range(3)}
    objects |= {f"tars/night-{n}.tar": night(n) for n in range(2)}
    objects |= {"t/rows.jsonl": json.dumps({"audio": "clips/ü 1.flac", "text": "Hi."}).encode()}
    objects |= {"t/clips/ü 1.flac": CLIPS[0]}
    for name, data in objects.items():
        (google.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (google.folder / name).write_bytes(data)
    got = fetched(TRAIN_JSONL="gs://voices/nights", VALIDATION_JSONL="gs://voices/t/rows.jsonl")
    assert contents(got["train"]) == [clip(n, "FLAC") for n in (0, 1, 2, 10, 11, 12, 20, 21, 22)]
    assert contents(got["validation"]) == [CLIPS[0]]
    google.reads()
    (google.folder / "nights/train-1.parquet").write_bytes(table(50, 2))
    again = fetched(TRAIN_JSONL="gs://voices/nights")
    assert contents(again["train"]) == [clip(n, "FLAC") for n in (0, 1, 2, 50, 51, 20, 21, 22)]
    read = google.reads()
    assert "nights/train-1.parquet" in read
    assert "nights/train-2.parquet" not in read, "what is here is not fetched again"
    tars = fetched(TRAIN_JSONL="gs://voices/tars/*.tar")
    assert contents(tars["train"]) == [clip(0), clip(1, "WAV"), clip(10), clip(11, "WAV")]
    work = {"WORK_DIR": str(tmp_path / "work")}
    assert "no such bucket, repo or path" in refusal("gs://nobody/here", **work)
    assert "no such bucket, repo or path" in refusal("gs://voices/none", **work)


def test_what_google_says_without_credentials_is_no_outage(tmp_path: Path) -> None:
    """Google's client retries for a minute and says UNAVAILABLE, whether there are none or no network."""
    said = (
        "google::cloud::Status(UNAVAILABLE: Retry policy exhausted, with a last message of Could not create a OAuth2 "
        "access token to authenticate the request. The underlying error message was: PerformWork() - CURL error "
        "[6]=Could not resolve hostname error_info={})"
    )
    assert buckets.lacks_credentials(OSError(said), {"HOME": str(tmp_path)})
    key = {"HOME": str(tmp_path), "GOOGLE_APPLICATION_CREDENTIALS": "/run/secrets/google.json"}
    assert not buckets.lacks_credentials(OSError(said), key)
    assert buckets.may_pass(OSError(said)), "so with credentials it is tried again"
    saved = tmp_path / ".config/gcloud/application_default_credentials.json"
    saved.parent.mkdir(parents=True)
    saved.write_text("{}")
    assert not buckets.lacks_credentials(OSError(said), {"HOME": str(tmp_path)})


def test_a_table_in_a_bucket_names_recordings_beside_it(fetched: Any, bucket: Bucket) -> None:
    rows = [{"audio": f"clips/{n}.{e}", "text": "Hello there."} for n, e in enumerate(ENDINGS)]
    rows += [{"audio": "../secret.flac", "text": "No."}, {"audio": "clips/none.wav", "text": "No."}]
    bucket.objects |= {f"v1.0/clips/{n}.{e}": CLIPS[n] for n, e in enumerate(ENDINGS)}
    bucket.objects |= {"v1.0/t.jsonl": "\n".join(map(json.dumps, rows)).encode(), "secret.flac": CLIPS[0]}
    got = fetched(TRAIN_JSONL="s3://voices/v1.0/t.jsonl")
    assert contents(got["train"]) == CLIPS
    assert [(row["row"], row["reason"]) for row in got["rejected"]] == [
        (6, "audio is missing"),
        (7, "audio is missing"),
    ]


def test_a_bad_row_is_left_out_by_shard_and_number(fetched: Any, bucket: Bucket) -> None:
    bucket.objects["p/0.parquet"] = table(0, 2)
    broken = pa.table(
        {"audio": [{"bytes": b"<html>no", "path": "x"}, {"bytes": None, "path": None}], "text": ["a", "b"]}
    )
    buffer = io.BytesIO()
    parquet.write_table(broken, buffer)
    bucket.objects["p/1.parquet"] = buffer.getvalue()
    bucket.objects["t/0.tar"] = tar(
        {"a.flac": CLIPS[0], "a.txt": "Good.", "b.txt": "No sound.", "c.json": "{", "c.wav": CLIPS[3]}
    )
    got = fetched(DATASETS="s3://voices/p|s3://voices/t", MAX_TRAIN_SAMPLES=9)
    assert len(got["train"]) == 3
    bad = [(row["source"], row["row"], row["reason"]) for row in got["rejected"]]
    assert bad == [
        ("t/0.tar", 2, "no recording"),
        ("t/0.tar", 3, "not JSON"),
        ("p/1.parquet", 1, "audio cannot be read"),
        ("p/1.parquet", 2, "no audio"),
    ]


def refusal(value: str, **more: str) -> str:
    loaded = variables.load({"TRAIN_JSONL": value, "TRANSCRIBE": "never", **more})
    with pytest.raises((BadInput, Unreachable)) as caught:
        fetch.run(loaded)
    said = str(caught.value)
    assert "\n" not in said
    assert "s3cret" not in said
    assert "AKIA" not in said
    return said


def test_failures_are_one_line_that_names_the_variable(tmp_path: Path, bucket: Bucket) -> None:
    work = {"WORK_DIR": str(tmp_path / "work")}
    bucket.objects |= {
        "cut.parquet": table(0, 4)[:-200],
        "cut.tar": night(0)[:20_000],
        "mute.tar": tar({"a.flac": CLIPS[0]}),
    }
    bucket.objects |= {
        "x/a.bin": b"x",
        "x/b.bin": b"x",
        "cut2/0.parquet": table(0, 2),
        "cut2/1.parquet": table(3, 2)[:-9],
    }
    assert refusal("s3://nobody/here", **work).startswith("TRAIN_JSONL=s3://nobody/here: no such bucket")
    assert "no such bucket, repo or path" in refusal("s3://voices/none", **work)
    assert "cut.parquet is no Parquet file, or is cut off" in refusal("s3://voices/cut.parquet", **work)
    assert "1.parquet: " in (said := refusal("s3://voices/cut2", **work)) or "1.parquet is" in said
    assert "cut.tar is no tar, or is cut off" in refusal("s3://voices/cut.tar", **work)
    assert "no column looks like the text" in refusal("s3://voices/mute.tar", **work)
    assert "there must be Parquet files, tars, or one JSONL or CSV file" in refusal("s3://voices/x", **work)
    said = refusal("s3://AKIAKEY:s3cret@voices/x", **work)
    assert "an address holds no keys" in said
    with pytest.raises(BadInput) as caught:
        fetch.run(variables.load({"DATASETS": "s3://AKIAKEY:s3cret@voices/x weight=2"}))
    assert str(caught.value).startswith("DATASETS: entry 1: an address holds no keys")
    assert "s3cret" not in str(caught.value)
    bucket.refused |= {"GET", "HEAD"}
    assert "reading is refused; check the keys" in refusal("s3://voices/x", **work)


@pytest.mark.slow
def test_a_shard_of_the_hub_is_named_by_its_address(tmp_path: Path) -> None:
    with Hub() as hub:
        files: dict[str, bytes | str] = {f"data/train-{n}.parquet": table(10 * n, 2) for n in range(2)}
        hub.add_repo("dataset", "alice/nights", {**files, "README.md": "# x"}, private=True)
        asked = [{"TRAIN_JSONL": "hf://datasets/alice/nights/data"}, {"DATASET_NAME": "hf://datasets/alice/none"}]
        answers = call(hub, tmp_path, *asked, token=READ)
        assert answers[0]["value"]["train"] == 4
        assert contents(manifest(tmp_path, 0)) == [clip(n, "FLAC") for n in (0, 1, 10, 11)]
        assert answers[1]["error"].startswith("DATASET_NAME=hf://datasets/alice/none: no such bucket, repo or path")
