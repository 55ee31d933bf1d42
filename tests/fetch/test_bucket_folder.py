"""DATA_DIR in object storage: each file is fetched once, whatever happens meanwhile, and read as a folder here is."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from job import fetch, pipeline
from job.config import settings as variables
from job.core import files
from job.core.errors import BadInput, Unreachable
from job.fetch.sharded.object_store import ObjectStore
from job.stages import stage
from tests.fetch.test_hub import call, clip, manifest
from tests.fetch.test_sharded import contents, night, refusal
from tests.hub.server import READ, Hub
from tests.support.bucket import Bucket
from tests.support.google import ROOT, GoogleBucket

WHERE = "gs://voices/studio/anna"


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleBucket]:
    folder = tmp_path / "voices"
    for n in range(12):
        store(folder / f"studio/anna/day {n // 6}", n)
    store(folder / "studio/other", 50)
    with GoogleBucket(folder) as served:
        for name, value in served.env.items():
            monkeypatch.setenv(name, value)
        yield served


def store(folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"_{number:03d}.flac").write_bytes(clip(number, "FLAC"))
    (folder / f"_{number:03d}.txt").write_text(f"It is number {number}.")


def test_a_folder_of_recordings_is_fetched_once_and_again_only_what_changed(fetched: Any, google: GoogleBucket) -> None:
    settings = variables.load({"DATA_DIR": WHERE, "WORK_DIR": str(google.folder.parent / "work")})
    assert fetch.check(settings).startswith(f"DATA_DIR={WHERE}: 24 files (0.2 MB) are fetched first")
    assert google.reads() == [], "a check fetches nothing"
    got = fetched(DATA_DIR=WHERE)
    assert contents(got["train"]) == [clip(n, "FLAC") for n in range(12)]
    assert [row["text"] for row in got["train"]][10:] == ["It is number 10.", "It is number 11."]
    assert len(google.reads()) == 24
    assert "train rows (text in text, audio in audio)" in fetch.check(settings)
    folder = google.folder / "studio/anna/day 0"
    stamps = {row["id"]: Path(row["audio"]).stat().st_mtime_ns for row in got["train"]}
    (folder / "_001.txt").write_text("It is another.")  # the same size
    os.utime(folder / "_001.txt", (1_700_000_000, 1_700_000_000))
    (folder / "_002.flac").unlink()
    (folder / "_002.txt").unlink()
    store(folder, 20)
    packed = gzip.compress(b"notes")
    (folder / "_notes.gz").write_bytes(packed)
    again = fetched(DATA_DIR=WHERE)
    new = ("001.txt", "020.flac", "020.txt", "notes.gz")
    assert sorted(google.reads()) == [f"studio/anna/day 0/_{name}" for name in new]
    texts = [row["text"] for row in again["train"]]
    assert (texts[1], texts[2], len(texts)) == ("It is another.", "It is number 3.", 12)
    kept = {row["id"]: Path(row["audio"]).stat().st_mtime_ns for row in again["train"]}
    assert {name: kept[name] for name in stamps if name in kept} == {n: s for n, s in stamps.items() if n in kept}
    here = got["settings"].paths.raw / "folder"
    assert not list(here.rglob("_002*")), "what is gone there is removed here"
    assert next(here.rglob("anna/day 0/_notes.gz")).read_bytes() == packed, (
        "whatever a file is called, it is copied as it is"
    )
    fetched(TRAIN_JSONL=refused_row(google.folder.parent))
    assert not here.exists(), "and all of it once the data is elsewhere"


def test_lines_of_datasets_may_be_such_folders(fetched: Any, google: GoogleBucket) -> None:
    """Each has a copy of its own, which stays as long as it is named; a folder of shards is read as before."""
    (google.folder / "shards").mkdir()
    (google.folder / "shards/night-1.tar").write_bytes(night(1))
    (google.folder / "encoded").mkdir()
    row = {"text": "It came with codes.", "audio_codes": [[0] * 16] * 10}
    (google.folder / "encoded/rows.jsonl").write_text(json.dumps(row))
    lines = [f"{WHERE} weight=2", "gs://voices/studio/other", "gs://voices/shards", "gs://voices/encoded"]
    got = fetched(DATASETS="\n".join(lines))
    assert len(got["train"]) == 12 + 1 + 2 + 1
    copies = got["settings"].paths.raw / "folder"
    assert sorted(path.name for path in copies.glob("*/*")) == ["anna", "other"]
    google.reads()
    again = fetched(DATASETS="\n".join(lines[1:]))
    assert google.reads() == ["shards/night-1.tar"], "of which the beginning is looked at"
    assert len(again["train"]) == 4
    assert [path.name for path in copies.glob("*/*")] == ["other"]
    with pytest.raises(BadInput, match="DATASETS: gs://voices/nothing: DATA_DIR=gs://voices/nothing: no such"):
        fetched(DATASETS="\n".join([*lines, "gs://voices/nothing"]))


def refused_row(folder: Path) -> Path:
    (folder / "one.flac").write_bytes(clip(3, "FLAC"))
    path = folder / "rows.jsonl"
    path.write_text('{"audio": "one.flac", "text": "One."}\n')
    return path


@pytest.mark.slow
def test_a_killed_fetch_keeps_what_has_arrived(google: GoogleBucket, fetched: Any, tmp_path: Path) -> None:
    for n in range(100, 160):
        store(google.folder / "studio/anna/more", n)
    google.wait(0.02)
    env = {**os.environ, "DATA_DIR": WHERE, "WORK_DIR": str(tmp_path / "work"), "TRANSCRIBE": "never"}
    run = subprocess.Popen([sys.executable, "-m", "job", "fetch"], env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
    here = tmp_path / "work/data/raw/folder"
    deadline = time.monotonic() + 60
    while len(list(here.rglob("_*"))) < 20 and time.monotonic() < deadline:
        assert run.poll() is None, "it was to be killed before it was done"
        time.sleep(0.005)
    run.kill()
    run.wait()
    whole = [path for path in here.rglob("_*") if path.suffix in (".flac", ".txt")]
    arrived = {path.relative_to(next(here.glob("*/anna"))).as_posix() for path in whole}
    assert 10 < len(arrived) < 140
    google.wait(0.0)
    google.reads()
    got = fetched(DATA_DIR=WHERE)
    assert len(got["train"]) == 72
    assert not {name.removeprefix("studio/anna/") for name in google.reads()} & arrived
    assert len([path for path in here.rglob("*") if path.is_file()]) == 144, "no halves are left"


def test_shards_in_such_a_folder_are_read_as_shards(fetched: Any, bucket: Bucket) -> None:
    bucket.objects |= {f"a/night-{n}.tar": night(n) for n in range(2)}
    got = fetched(DATA_DIR="s3://voices/a")
    assert contents(got["train"]) == [clip(0), clip(1, "WAV"), clip(10), clip(11, "WAV")]
    assert not (got["settings"].paths.raw / "folder").exists()


def test_what_is_no_folder_is_refused_in_one_line(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.objects |= {
        "a/b.flac": clip(0),
        "a/b.txt": b"Hi.",
        "t/night-0.tar.gz": b"\x1f\x8b",
        "e/../../x.flac": clip(1),
    }
    work = {"WORK_DIR": str(tmp_path / "work"), "TRANSCRIBE": "never"}

    def told(**given: str) -> str:
        with pytest.raises(BadInput) as caught:
            fetch.run(variables.load({**work, **given}))
        return str(caught.value)

    assert "is not a folder; a table or a shard goes into TRAIN_JSONL" in told(DATA_DIR="s3://voices/a/b.flac")
    assert "a pattern of shards goes into TRAIN_JSONL" in told(DATA_DIR="s3://voices/a/*.flac")
    assert told(DATA_DIR="s3://nobody/a").startswith("DATA_DIR=s3://nobody/a: no such bucket")
    with monkeypatch.context() as without_scheme, pytest.raises(Unreachable, match=r"check .* AWS_ENDPOINT_URL"):
        without_scheme.setenv("AWS_ENDPOINT_URL", bucket.env["AWS_ENDPOINT_URL"].removeprefix("http://"))
        fetch.run(variables.load({**work, "DATA_DIR": "s3://voices/a"}))
    assert "an address holds no keys" in told(DATA_DIR="s3://AKIAKEY:s3cret@voices/a")
    assert "a folder of recordings and texts goes into DATA_DIR" in refusal("s3://voices/a", **work)
    for variable in ("TRAIN_JSONL", "DATA_DIR", "DATASETS"):
        assert "night-0.tar.gz: a compressed tar is not read" in told(**{variable: "s3://voices/t"})
    assert "nothing in it that can be read" in told(DATA_DIR="s3://voices/e")
    assert not list(tmp_path.rglob("x.flac")), "no name leads out of the folder"


@pytest.mark.parametrize("variable", ["DATA_DIR", "DATASETS"])
def test_rows_name_no_file_outside_of_the_folder(fetched: Any, bucket: Bucket, tmp_path: Path, variable: str) -> None:
    """Whoever may write to a bucket does not decide which files of this machine are trained on, and published."""
    secret = tmp_path / "secret.wav"
    secret.write_bytes(clip(7, "WAV"))
    up = "../" * 20 + str(secret).lstrip("/")
    named = [
        ("a.flac", ""),
        (str(secret), ""),
        (up, ""),
        (f"file://{secret}", ""),
        ("b/../a.flac", ""),
        ("b/c.flac", up),
    ]
    rows = "".join(f"{one}|This is sentence number {n}.|{ref}\n" for n, (one, ref) in enumerate(named))
    bucket.objects |= {"x/metadata.csv": f"audio|text|ref_audio\n{rows}".encode()}
    bucket.objects |= {"x/a.flac": clip(0), "x/b/c.flac": clip(1)}
    got = fetched(SPEAKER_NAME="ada", **{variable: "s3://voices/x"})
    missing = {row["row"] for row in got["rejected"] if row["reason"] in ("audio is missing", "ref_audio is missing")}
    assert missing == {3, 4, 5, 7}
    assert "secret" not in str(got["train"])


def test_a_stray_archive_does_not_take_the_place_of_the_table(
    fetched: Any, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a folder here; without a table shards are read, and it is said that the recordings are not."""
    bucket.objects |= {
        "x/metadata.csv": b"audio|text\na.flac|It is a.\n",
        "x/a.flac": clip(0),
        "x/old/backup.tar": b"no tar",
    }
    got = fetched(DATA_DIR="s3://voices/x")
    assert [row["text"] for row in got["train"]] == ["It is a."]
    bucket.objects["x/tarred_audio_manifest.json"] = b'{"audio_filepath": "a.flac", "shard_id": 0, "text": "No."}\n'
    assert [row["text"] for row in fetched(DATA_DIR="s3://voices/x")["train"]] == ["It is a."]
    assert ("GET", "x/old/backup.tar") not in bucket.seen, "what is not read is not fetched"
    bucket.objects |= {"y/a.flac": clip(0), "y/a.txt": b"It is a.", "y/night-0.tar": night(0)}
    assert len(fetched(DATA_DIR="s3://voices/y")["train"]) == 2
    assert "1 recordings beside them are not" in capsys.readouterr().err


def test_names_that_no_disk_takes_are_left_out(
    fetched: Any, bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    """S3 takes names of a kilobyte, and an object `day` beside those of `day/`, with which some tools mark folders."""
    long = "ä" * 125
    bucket.objects |= {"x/": b"", "x/day/": b"", "x/day": b"", "x/day/a.flac": clip(0), "x/day/a.txt": b"It is a."}
    bucket.objects |= {f"x/{long}.flac": clip(1), f"x/{long}.txt": b"It is long."}
    assert [row["text"] for row in fetched(DATA_DIR="s3://voices/x")["train"]] == ["It is a."]
    assert "2 hidden or unusable names left out, the first 'äää" in capsys.readouterr().err
    bucket.objects["x/day"] = b"more than a mark"
    with pytest.raises(BadInput, match="day is a file and a folder in it"):
        fetched(DATA_DIR="s3://voices/x")


STRANGE = "takes [a*b?] 2024"


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ({"DATA_DIR": f"s3://voices/{STRANGE}"}, "It is a."),
        ({"DATASETS": "s3://voices/takes [[]a[*]b[?]] 2024"}, "It is a."),
        ({"TRAIN_JSONL": "s3://voices/takes [[]a[*]b[?]] 2024/rows/rows.jsonl"}, "It is in the table."),
        ({"TRAIN_JSONL": "s3://voices/takes [[]a[*]b[?]] 2024/rows/*.jsonl"}, "It is in the table."),
    ],
    ids=lambda value: str(value),
)
def test_signs_of_patterns_may_be_in_names(fetched: Any, bucket: Bucket, named: dict[str, str], found: str) -> None:
    """DATA_DIR is a folder, whatever it is called; elsewhere a sign in brackets is meant as it stands."""
    bucket.objects |= {f"{STRANGE}/a.flac": clip(0), f"{STRANGE}/a.txt": b"It is a."}
    bucket.objects |= {"takes a and b 2024/b.flac": clip(1), "takes a and b 2024/b.txt": b"It is another folder's."}
    bucket.objects |= {f"{STRANGE}/rows/c.flac": clip(2)}
    bucket.objects[f"{STRANGE}/rows/rows.jsonl"] = b'{"audio": "c.flac", "text": "It is in the table."}'
    got = [fetched(**named) for _ in range(2)][1]
    assert found in [row["text"] for row in got["train"]]
    if "TRAIN_JSONL" not in named:
        assert len(list((got["settings"].paths.raw / "folder").iterdir())) == 1, "the copy is kept"
    with pytest.raises(BadInput, match=re.escape("is written [[], [*] or [?]")):
        fetched(TRAIN_JSONL=f"s3://voices/{STRANGE}/rows/rows.jsonl")


@pytest.mark.parametrize("name", ["night-0.tar.gz", "night-*.tgz", "."])
def test_compressed_tars_here_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    for packed in ("night-0.tar.gz", "night-1.tgz"):
        (tmp_path / packed).write_bytes(b"\x1f\x8b")
    variable = "DATA_DIR" if name == "." else "TRAIN_JSONL"
    loaded = variables.load({variable: str(tmp_path / name), "WORK_DIR": str(tmp_path / "work")})
    with pytest.raises(BadInput, match="a compressed tar is not read") as caught:
        fetch.run(loaded)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_folder_of_a_dataset_on_the_hub_is_read_as_one_here(tmp_path: Path) -> None:
    with Hub() as hub:
        files: dict[str, bytes | str] = {f"studio/{n}.flac": clip(n, "FLAC") for n in range(3)}
        files |= {f"studio/{n}.txt": f"It is number {n}." for n in range(3)}
        hub.add_repo("dataset", "alice/tapes", {**files, "README.md": "# x"}, private=True)
        asked = {"DATA_DIR": "hf://datasets/alice/tapes/studio"}
        answers = call(hub, tmp_path, asked, token=READ)
        assert answers[0]["value"]["train"] == 3
        assert contents(manifest(tmp_path, 0)) == [clip(n, "FLAC") for n in range(3)]
        here = Path(manifest(tmp_path, 0)[0]["audio"]).parent
        before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in here.iterdir()}
        assert call(hub, tmp_path, asked, token=READ)[0]["value"]["train"] == 3
        assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in here.iterdir()} == before


@pytest.mark.parametrize(
    "named",
    [
        {"DATA_DIR": "s3://voices/x"},
        {"DATA_DIR": "s3://voices/nights"},
        {"DATASETS": "s3://voices/x|s3://voices/nights"},
        {"TRAIN_JSONL": "s3://voices/nights"},
        {"DATASET_NAME": "s3://voices/nights"},
    ],
    ids=lambda named: " ".join(next(iter(named.items()))),
)
def test_a_folder_is_listed_once_in_a_stage(bucket: Bucket, tmp_path: Path, named: dict[str, str]) -> None:
    """A listing of a hundred thousand files takes long and costs requests; the next stage still sees what is new."""
    bucket.objects |= {"x/a.flac": clip(0), "x/a.txt": b"It is a.", "nights/night-0.tar": night(0)}
    settings = variables.load({"WORK_DIR": str(tmp_path / "work"), "TRANSCRIBE": "never", **named})
    folders = next(iter(named.values())).count("s3://")

    def listings() -> int:
        """How often the bucket was listed; a client that lists a folder first asks whether it is an object."""
        found = len([1 for method, key in bucket.seen if (method, key) == ("GET", "")])
        bucket.seen.clear()
        return found

    pipeline.run_stage(settings, stage("fetch"))
    alone = listings()
    assert fetch.check(settings)
    checked = listings()
    for named_folder in ("x", "nights"):
        ObjectStore(f"s3://voices/{named_folder}", "", settings).listing()
    once = listings() // 2
    assert (alone, checked) == (once * folders, once * folders)

    bucket.objects |= {"x/b.flac": clip(1), "x/b.txt": b"It is b.", "nights/night-1.tar": night(1)}
    before = len(list(files.read_jsonl(settings.paths.manifest("train"))))
    pipeline.run_stage(settings, stage("fetch"))
    assert len(list(files.read_jsonl(settings.paths.manifest("train")))) > before
