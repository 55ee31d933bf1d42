"""What is said about files that are not read ends no run that has what it needs, and says nothing that is not so."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from job.core.errors import BadInput
from tests.fetch.conftest import write_audio
from tests.fetch.test_no_words import recordings
from tests.fetch.test_trees import write
from tests.test_denied import told


def test_folders_that_may_not_be_listed_end_no_run_whose_table_names_none_of_them(tmp_path: Path) -> None:
    root = tmp_path / "in"
    write_audio(root / "a.wav")
    write(root / "metadata.csv", "file_name,text\na.wav,Words.\n")
    closed = {root / name: 0 for name in ("lost+found", ".Trash-0", "private")}
    for path in closed:
        (path / "samples").mkdir(parents=True)
    described = tmp_path / "splits"
    write_audio(described / "train" / "a.wav")
    write(described / "train" / "metadata.csv", "file_name,text\na.wav,Words.\n")
    (described / "lost+found").mkdir()
    asked = [({"DATA_DIR": root}, closed), ({"DATA_DIR": described}, {described / "lost+found": 0})]
    for code, output in told("fetch", tmp_path / "work", [*asked]):
        assert code == 0 and "1 training and 0 validation rows, 0 left out" in output, output


def test_a_spreadsheet_beside_a_few_texts_stops_no_transcription(tmp_path: Path, fetched: Any) -> None:
    root = recordings(tmp_path / "in", [f"ep{n:02d}" for n in range(22)])
    write(root / "speakers.xlsx", "PK")
    with pytest.raises(BadInput, match=r"speakers\.xlsx is not read"):
        fetched(DATA_DIR=root, TRANSCRIBE="auto")
    for n in range(2):
        write(root / f"ep{n:02d}.txt", "What is said.")
    assert len(fetched(DATA_DIR=root)["train"]) == 2


def test_tars_of_splits_that_are_read_are_not_called_unread(tmp_path: Path, fetched: Any, capsys: Any) -> None:
    write(write_audio(tmp_path / "a.wav").with_suffix(".txt"), "In a tar.")
    for split in ("train", "dev", "old"):
        (tmp_path / "in" / split).mkdir(parents=True)
        with tarfile.open(tmp_path / "in" / split / "000.tar", "w") as tar:
            tar.add(tmp_path / "a.wav", f"{split}.wav")
            tar.add(tmp_path / "a.txt", f"{split}.txt")
    fetched(DATA_DIR=tmp_path / "in", VALIDATION_SPLIT="dev")
    said = capsys.readouterr().err
    assert "not read: old/000.tar: " in said and "train/000" not in said and "dev/000" not in said


@pytest.mark.parametrize("name", ["samples", "output", "data/raw"])
def test_recordings_in_a_folder_that_is_work_dirs_own_are_named(tmp_path: Path, fetched: Any, name: str) -> None:
    write(write_audio(tmp_path / name / "a.wav").with_suffix(".txt"), "A person says this.")
    write(tmp_path / "state" / "run.lock", "")
    with pytest.raises(BadInput, match=f"{name}: .*WORK_DIR's own.*set another WORK_DIR") as error:
        fetched(DATA_DIR=tmp_path, WORK_DIR=tmp_path)
    assert "has written" not in str(error.value)


def test_recordings_of_splits_that_other_tables_name_are_not_called_unnamed(
    tmp_path: Path, fetched: Any, capsys: Any
) -> None:
    for split, stem in (("train", "a"), ("dev", "b"), ("test", "c")):
        write_audio(tmp_path / "in" / "clips" / f"{stem}.wav")
        write(tmp_path / "in" / f"{split}.tsv", f"path\tsentence\n{stem}.wav\tWords of {split}.\n")
    assert len(fetched(DATA_DIR=tmp_path / "in")["train"]) == 1
    assert "no row names" not in capsys.readouterr().out
    (tmp_path / "in" / "dev.tsv").unlink()
    (tmp_path / "in" / "test.tsv").unlink()
    fetched(DATA_DIR=tmp_path / "in")
    assert "no row names 2 recordings" in capsys.readouterr().out
