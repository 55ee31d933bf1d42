"""Several sources in one run (DATASETS): mixed in proportion, each row with its source, wrong entries named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from job import fetch
from job.config import datasets
from job.config import settings as variables
from job.core.errors import BadInput
from tests.fetch.conftest import write_audio, write_lines


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    """A JSONL of eight rows of 0.5 s, and a folder of four recordings with texts, under other names."""
    for number in range(8):
        write_audio(tmp_path / "a" / f"{number}.wav", seed=number)
    rows = [{"audio_filepath": f"{n}.wav", "sentence": f"row {n}", "reader": "x"} for n in range(8)]
    table = write_lines(tmp_path / "a" / "first.jsonl", rows)
    for number in range(4):
        path = write_audio(tmp_path / "second" / f"{number}.wav", seed=10 + number)
        path.with_suffix(".txt").write_text(f"file {number}", encoding="utf-8")
    return table, tmp_path / "second"


def _texts(got: dict[str, Any]) -> list[str]:
    return [row["text"] for row in got["train"]]


def test_rows_are_mixed_in_proportion_and_each_names_its_source(
    sources: Any, fetched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    table, folder = sources
    got = fetched(DATASETS=f"{table} weight=2\n{folder}  # all of it\n", MAX_TRAIN_SAMPLES=9)
    assert _texts(got) == ["row 0", "row 1", "file 0", "row 2", "row 3", "file 1", "row 4", "row 5", "file 2"]
    assert Counter(row["source"] for row in got["train"]) == {"first.jsonl": 6, "second": 3}
    assert {Path(row["audio"]).parent.name for row in got["train"] if row["source"] == "second"} == {"second"}
    assert len({row["id"] for row in got["train"]}) == 9
    again = fetched(DATASETS=f"{table} weight=2|{folder}")
    assert _texts(again)[:9] == _texts(got) and len(again["train"]) == 12, "without a limit, all of them"
    assert "second: 4 rows of 0.00 h" in capsys.readouterr().out


def test_each_source_has_its_own_limits_and_the_rows_left_out_their_source(
    sources: Any, fetched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    table, folder = sources
    (folder / "1.wav").write_bytes(b"not a sound")
    got = fetched(DATASETS=f"{table} hours={1.6 / 3600}\n{folder} rows=2")
    assert _texts(got) == ["row 0", "file 0", "row 1", "file 2", "row 2"]
    (left,) = got["rejected"]
    assert (left["source"], left["row"], left["reason"]) == ("second", 2, "audio cannot be read")
    assert "left out 1 row of DATASETS: audio cannot be read, row 2 of second (" in capsys.readouterr().err


def test_parts_of_recordings_and_columns_of_either_source_are_kept(sources: Any, fetched: Any, tmp_path: Path) -> None:
    _, folder = sources
    cut = [{"audio": "a/0.wav", "text": "a part", "start": 0.1, "end": 0.4, "speaker": "Anna", "language": "German"}]
    got = fetched(DATASETS=f"{write_lines(tmp_path / 'cut.jsonl', cut)}|{folder}")
    first, second = got["train"][:2]
    assert (first["start"], first["end"], first["speaker"], first["language"]) == (0.1, 0.4, "anna", "German")
    assert second.get("start") is None and second["speaker"] is None


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("/no/such/folder", r"entry 1 \(/no/such/folder\): no such file or folder"),
        ("lost.jsonl weight=2", "no such file or folder"),
        ("owner/name weight=-1", r"weight=-1: must be a number above 0"),
        ("owner/name rows=1.5", "rows=1.5: must be a whole number above 0"),
        ("owner/name hour=3", r"hour= is unknown; there are weight=, hours= and rows="),
        ("owner / name", r"neither a file or folder here nor owner/name"),
        ("owner/name\nowner/name rows=3", "entry 2 .* it is there twice"),
        ("# nothing", "DATASETS names no dataset"),
        ("/no/one|x=y=z", r"entry 1 \(/no/one\): no such file or folder; entry 2 \(x=y=z\): neither"),
    ],
)
def test_what_is_malformed_or_not_there_is_named_in_one_line(value: str, problem: str, tmp_path: Path) -> None:
    settings = variables.load({"DATASETS": value, "WORK_DIR": str(tmp_path)})
    with pytest.raises(BadInput, match=problem) as error:
        fetch.check(settings)
    assert str(error.value).startswith("DATASETS") and "\n" not in str(error.value)


def test_datasets_are_the_only_source(sources: Any, fetched: Any) -> None:
    table, folder = sources
    with pytest.raises(BadInput, match="DATASETS and DATA_DIR are both set; unset one"):
        fetched(DATASETS=table, DATA_DIR=folder)
    with pytest.raises(BadInput, match="VALIDATION_SPLIT: not with DATASETS"):
        fetched(DATASETS=table, VALIDATION_SPLIT="test")


def test_a_check_before_the_run_names_the_source_that_cannot_be_read(sources: Any, tmp_path: Path) -> None:
    table, folder = sources
    empty = tmp_path / "empty"
    empty.mkdir()
    values = {"WORK_DIR": str(tmp_path / "w"), "TRANSCRIBE": "never"}
    assert fetch.check(variables.load({**values, "DATASETS": f"{table}|{folder}"})).count("train rows") == 2
    with pytest.raises(BadInput, match=rf"DATASETS: {empty}: .*no metadata.jsonl"):
        fetch.check(variables.load({**values, "DATASETS": f"{table}|{empty}"}))


def test_an_entry_of_the_hub_is_read_in_all_its_parts() -> None:
    (one,) = datasets.parse("owner/name:nb-NO@v1.2/x#train[:10%] weight=0.5 hours=2")
    told = (one.name, one.config, one.revision, one.split, one.weight, one.hours, one.rows)
    assert told == ("owner/name", "nb-NO", "v1.2/x", "train[:10%]", 0.5, 2.0, None)
