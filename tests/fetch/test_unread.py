"""What a user named and the job does not read is said, and recordings are not transcribed in place of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from job.config import settings
from job.core.errors import BadInput
from job.fetch import tables
from tests.fetch.conftest import write_audio, write_lines

TABLE = "Lydfil;Tekst;Annet\n" + "".join(f"c{n}.wav;This is sentence {n}.;And this is {n}, too.\n" for n in range(3))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("all of it.xlsx", b"PK\x03\x04", "is not read: save it as metadata.csv"),
        ("metadata.ods", b"PK\x03\x04", "is not read: save it as metadata.csv"),
        ("texts.json", json.dumps({f"c{n}": f"Words {n}." for n in range(3)}).encode(), "names the recordings"),
        ("list.csv", TABLE.encode("utf-16-le"), "looks like UTF-16 without its mark"),
        ("list.csv", TABLE.encode(), "set TEXT_COLUMN|with TEXT_COLUMN"),
    ],
)
def test_a_table_that_is_not_read_is_asked_about(
    tmp_path: Path, fetched: Any, name: str, content: bytes, reason: str
) -> None:
    for number in range(3):
        write_audio(tmp_path / "in" / f"c{number}.wav", seed=number)
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(BadInput, match=f"(?s){name} .*({reason}).*TRANSCRIBE=always transcribes"):
        fetched(DATA_DIR=tmp_path / "in", TRANSCRIBE="auto")


def test_a_link_to_nothing_is_a_row_left_out(tmp_path: Path, fetched: Any) -> None:
    """git-annex, DVC and pruned caches leave links whose files are elsewhere."""
    for name in "ab":
        write_audio(tmp_path / "in" / f"{name}.wav").with_suffix(".txt").write_text(f"{name} is said.")
    (tmp_path / "in" / "b.wav").unlink()
    (tmp_path / "in" / "b.wav").symlink_to("../.git/annex/objects/b")
    got = fetched(DATA_DIR=tmp_path / "in")
    assert [row["text"] for row in got["train"]] == ["a is said."]
    (rejected,) = got["rejected"]
    assert rejected["reason"] == "audio is missing" and "b.wav is a link to ../.git/annex" in rejected["detail"]
    assert rejected["looked_for"] == [str(tmp_path / "in" / "b.wav")], "the next run notices that it has come"


def test_a_file_address_is_a_path(tmp_path: Path, fetched: Any) -> None:
    path = write_audio(tmp_path / "in" / "blå bær.wav")
    rows = [{"audio": path.as_uri(), "text": "a"}, {"audio": f"file://localhost{path}", "text": "a"}]
    rows += [{"audio": "file:bl%C3%A5%20b%C3%A6r.wav", "text": "a"}, {"audio": "file://server/a.wav", "text": "b"}]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "in" / "t.jsonl", rows))
    assert [row["audio"] for row in got["train"]] == [str(path)] * 3
    assert [row["row"] for row in got["rejected"]] == [4]


def test_splits_that_a_file_does_not_have_are_said(tmp_path: Path, fetched: Any, capsys: Any) -> None:
    write_audio(tmp_path / "a.wav")
    path = write_lines(tmp_path / "t.jsonl", [{"audio": "a.wav", "text": "a"}])
    fetched(TRAIN_JSONL=path, VALIDATION_SPLIT="dev")
    assert "VALIDATION_SPLIT=dev: not read, since TRAIN_JSONL has no splits" in capsys.readouterr().out


def test_starts_of_nought_in_parquet_are_whole_recordings(tmp_path: Path, fetched: Any) -> None:
    for number in range(3):
        write_audio(tmp_path / f"c{number}.wav", seed=number)
    columns = {"audio": [f"c{n}.wav" for n in range(3)], "text": ["a", "b", "c"], "start": [0.0] * 3}
    table = pa.table({**columns, "audio": pa.array(columns["audio"]).dictionary_encode()})
    parquet.write_table(table, tmp_path / "d.parquet")
    rows = fetched(TRAIN_JSONL=tmp_path / "d.parquet")["train"]
    assert [(row["text"], row.get("start")) for row in rows] == [("a", None), ("b", None), ("c", None)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-16-be"])
def test_texts_beside_recordings_are_read_in_the_encodings_of_tables(
    tmp_path: Path, fetched: Any, encoding: str
) -> None:
    path = write_audio(tmp_path / "in" / "a.wav").with_suffix(".txt")
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    path.write_bytes(mark + "Blåbær.\r\n".encode(encoding))
    assert [row["text"] for row in fetched(DATA_DIR=tmp_path / "in")["train"]] == ["Blåbær."]


def test_folders_of_splits_are_no_speakers(tmp_path: Path, fetched: Any, capsys: Any) -> None:
    """What is kept apart for validation or tests is not trained on, and nobody is called `train`."""
    for number, folder in enumerate(("train", "train/b", "dev", "test-other")):
        path = write_audio(tmp_path / "in" / folder / f"{number}.wav", seed=number)
        path.with_suffix(".txt").write_text(f"Sentence {number}.")
    got = fetched(DATA_DIR=tmp_path / "in", SPEAKER_NAME="me")
    assert sorted(row["text"] for row in got["train"]) == ["Sentence 0.", "Sentence 1."]
    assert "train is read; not read: dev, test-other (VALIDATION_SPLIT names one" in capsys.readouterr().out
    (tmp_path / "in" / "test-other").rename(tmp_path / "in" / "anna")
    assert len(fetched(DATA_DIR=tmp_path / "in")["train"]) == 4, "folders of people are read all"


def test_a_text_with_the_name_of_its_recording_is_not_read_out(tmp_path: Path, fetched: Any) -> None:
    for number, text in enumerate(["c0.wav|Hello.", "c1\tThank you.", "C2: Not now.", "C3 is a vitamin."]):
        write_audio(tmp_path / "in" / f"c{number}.wav", seed=number).with_suffix(".txt").write_text(text)
    got = fetched(DATA_DIR=tmp_path / "in")
    assert [row["text"] for row in got["train"]] == ["C3 is a vitamin."]
    assert {row["reason"] for row in got["rejected"]} == {"text has the name of its recording"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("urls.txt", "".join(f"https://h.example/voice, ann/{n:03d}.mp3\n" for n in range(3))),
        ("urls.csv", "".join(f"https://h.example/{n}.mp3,Sentence {n}\n" for n in range(3))),
        ("README.txt", "Cut from:\nmorning_session.wav\nevening_session.wav\n"),
        ("readme.csv", "morning.wav;before noon\nevening.wav;after it\n"),
        ("notes.txt", "morning_session.wav\nevening_session.wav, 2\n"),
        ("done.jsonl", "".join(f'{{"file": "x{n}.wav"}}\n' for n in range(3))),
        ("cut.csv", "".join(f"x{n}.wav,old{n}.wav,{n}.5\n" for n in range(3))),
        ("novel.txt", "她说话的时候总是看着窗外" * 100_000),
    ],
)
def test_a_list_without_words_is_no_table_of_other_recordings(tmp_path: Path, name: str, content: str) -> None:
    """Recordings beside it are transcribed as before; a book of one line does not take hours to look at."""
    audio = [write_audio(tmp_path / f"take{n}.wav", seed=n) for n in range(2)]
    (tmp_path / name).write_text(content)
    loaded = settings.load({"DATA_DIR": str(tmp_path), "WORK_DIR": str(tmp_path / "work")})
    assert tables.unread(tmp_path, audio, loaded) is None
    (tmp_path / name).unlink()
    (tmp_path / "list.jsonl").write_text('{"file": "x1.wav", "said": "Good day."}\n' * 2)
    assert "names recordings that are not in this folder, such as 'x1.wav'" in str(
        tables.unread(tmp_path, audio, loaded)
    )
