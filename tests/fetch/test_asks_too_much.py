"""What is said about files that are not read ends no run that has what it needs, and says nothing that is not so."""

from __future__ import annotations

import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from job.core.errors import BadInput
from job.fetch import elsewhere
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


@pytest.mark.parametrize(
    ("count", "name"),
    [
        (1, "ep000.info.json"),
        (1, "../catalogue.json"),
        (2, "notes/list.csv"),
        (6, "ep003.info.json"),
        (6, "../catalogue.json"),
        (40, "clips/favourites.csv"),
    ],
)
def test_files_about_a_few_recordings_stop_no_transcription(tmp_path: Path, count: int, name: str) -> None:
    """As a downloader writes beside a film, and sites and shops for what they have."""
    root = recordings(tmp_path / "in", [f"ep{n:03d}" for n in range(count)])
    about = [f'{{"file": "ep{n:03d}.wav", "title": "Of ships, the sea and the harbour {n}"}}' for n in range(6)]
    write(root / name, "\n".join(about))
    assert elsewhere.with_words(root, sorted(root.glob("*.wav"))) is None


def place(number: int) -> str:
    return "".join("aeiouklmnr"[int(digit)] for digit in f"{number:05d}").title()


def test_of_a_long_file_only_the_beginning_is_looked_at_and_a_share_of_the_names_is_enough(tmp_path: Path) -> None:
    audio = [tmp_path / "in" / "wav" / f"{n:06d}.wav" for n in range(20_000)]
    words = "".join(f"{path.stem}\tHun reiser til {place(n)} i dag.\n" for n, path in enumerate(audio))
    write(tmp_path / "in" / "doc" / "000000-019999.txt", words)
    found = elsewhere.with_words(tmp_path / "in", audio)
    assert found is not None and found.startswith("doc/000000-019999.txt names the recordings")


def test_a_tree_with_many_files_that_are_no_tables_is_soon_looked_through(tmp_path: Path) -> None:
    audio = []
    for day in range(50):
        audio += [tmp_path / "in" / str(day) / f"take_{day:02d}_{n:03d}.wav" for n in range(1000)]
        for n in range(12):
            write(tmp_path / "in" / str(day) / f"log{n}.json", f'{{"of": "mic {n}", "level": 0.{n}}}\n' * 2400)
    begun = time.process_time()
    assert elsewhere.with_words(tmp_path / "in", audio) is None
    assert time.process_time() - begun < 10
    rows = (f"{path.name}\tHun reiser til {place(n)}.\n" for n, path in enumerate(audio[7000:8000]))
    write(tmp_path / "in" / "7" / "a.tsv", "".join(rows))
    assert str(elsewhere.with_words(tmp_path / "in", audio)).startswith("7/a.tsv names recordings: set DATA_DIR to ")
