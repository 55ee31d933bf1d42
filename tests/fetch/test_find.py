"""The file that a row names is the one that is taken, or none: never another's recording."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from job.core.errors import BadInput
from job.fetch import listing
from job.fetch.find import Finder
from job.fetch.same import same_recording
from tests.fetch.conftest import write_audio, write_lines
from tests.fetch.test_trees import noise, reasons, said, write


@pytest.mark.parametrize("column", ["id", "file_name", "path"])
@pytest.mark.parametrize("ending", [".wav", ".FLAC", ".mp3", ".ogg"])
def test_names_without_an_ending_are_found_under_any_header(
    tmp_path: Path, fetched: Any, column: str, ending: str
) -> None:
    for number, name in enumerate(("u1", "u.2", "u")):
        noise(tmp_path / "c" / "wavs" / f"{name}{ending}", seed=number)
    audio = "audio" if column == "id" else column
    write(tmp_path / "c" / "metadata.csv", f"{audio},text\nu1,one\nu.2,two\nu,three\nu.3,four\n")
    got = fetched(DATA_DIR=tmp_path / "c")
    assert said(got) == {f"u1{ending}": "one", f"u.2{ending}": "two", f"u{ending}": "three"}
    assert [r["reason"] for r in got["rejected"]] == ["audio is missing"]


def test_ids_with_dots_of_tables_without_a_header(tmp_path: Path, fetched: Any) -> None:
    for number, name in enumerate(("a.wav", "a.1.wav", "a.2.flac")):
        noise(tmp_path / "wavs" / name, seed=number)
    write(tmp_path / "metadata.csv", "a.1|first|first\na|plain|plain\na.2|second|second\na.3|gone|gone\n")
    got = fetched(DATA_DIR=tmp_path)
    assert said(got) == {"a.1.wav": "first", "a.wav": "plain", "a.2.flac": "second"}
    assert [r["row"] for r in got["rejected"]] == [4]


@pytest.mark.parametrize(
    ("folders", "value"),
    [(("p1", "p2"), "u1.wav"), (("p1", "p2"), "u1"), (("wavs", "clips"), "u1.wav"), (("x/y", "audio/z"), "U1.wav")],
)
def test_two_files_of_a_name_are_both_named_and_neither_taken(
    tmp_path: Path, fetched: Any, folders: tuple[str, str], value: str
) -> None:
    root = tmp_path / "c"
    for number, folder in enumerate(folders):
        noise(root / folder / "u1.wav", seed=number)
    noise(root / folders[0] / "u2.wav", seed=5)
    write(root / "metadata.csv", f"file_name,text\n{value},which\n{folders[1]}/u1.wav,this one\nu2.wav,two\n")
    got = fetched(DATA_DIR=root)
    assert [(row["text"], row["row"]) for row in got["train"]] == [("this one", 3), ("two", 4)]
    detail = reasons(got)["audio is ambiguous"]
    assert all(f"{Path(folder).parts[-1]}/u1.wav" in detail for folder in folders)
    for folder in folders:
        noise(root / folder / "u1.wav", seed=1)
    if value.startswith("u"):
        assert len(fetched(DATA_DIR=root)["train"]) == 3, "two copies of one recording are no question"


def test_the_exact_path_wins(tmp_path: Path, fetched: Any) -> None:
    for number, name in enumerate(("u1.wav", "wavs/u1.wav", "old/u1.wav")):
        noise(tmp_path / name, seed=number)
    write(tmp_path / "metadata.csv", "file_name,text\nu1.wav,top\nwavs/u1.wav,below\n")
    got = fetched(DATA_DIR=tmp_path)
    assert [Path(row["audio"]).relative_to(tmp_path).as_posix() for row in got["train"]] == ["u1.wav", "wavs/u1.wav"]


def test_a_folder_that_is_named_is_never_another_one(tmp_path: Path, fetched: Any) -> None:
    noise(tmp_path / "c" / "eva" / "1.wav", seed=1)
    noise(tmp_path / "c" / "deep" / "Eva" / "2.wav", seed=2)
    write(tmp_path / "c" / "metadata.csv", "file_name,text\nadam/1.wav,not his\neva/1.wav,hers\neva/2.wav,hers too\n")
    got = fetched(DATA_DIR=tmp_path / "c")
    assert said(got) == {"1.wav": "hers", "2.wav": "hers too"}


def test_several_formats_of_a_stem(tmp_path: Path, fetched: Any) -> None:
    root = tmp_path / "c"
    samples, rate = soundfile.read(noise(root / "one.wav", seed=1, rate=48000))
    soundfile.write(root / "one.mp3", samples[::2], rate // 2)
    noise(root / "two.wav", seed=2)
    noise(root / "two.flac", seed=3)
    write(root / "metadata.csv", "file_name,text\none,same\ntwo,which\ntwo.flac,this\n")
    got = fetched(DATA_DIR=root)
    assert said(got) == {"one.wav": "same", "two.flac": "this"}
    assert "two.flac and two.wav" in reasons(got)["audio is ambiguous"]


def test_names_that_differ_in_letter_case_only(tmp_path: Path, fetched: Any) -> None:
    noise(tmp_path / "Ab.wav", seed=1)
    noise(tmp_path / "aB.wav", seed=2)
    noise(tmp_path / "Lone.WAV", seed=3)
    if (tmp_path / "Ab.wav").read_bytes() == (tmp_path / "aB.wav").read_bytes():
        pytest.skip("this file system does not tell letter case apart")
    rows = [("Ab.wav", "1"), ("aB", "2"), ("ab.wav", "3"), ("lone.wav", "4"), ("LONE", "5")]
    path = write_lines(tmp_path / "t.jsonl", [{"audio": audio, "text": text} for audio, text in rows])
    got = fetched(TRAIN_JSONL=path)
    assert said(got) == {"Ab.wav": "1", "aB.wav": "2", "Lone.WAV": "4"}
    assert [r["reason"] for r in got["rejected"]] == ["audio is ambiguous"] * 2


@pytest.mark.parametrize("ending", ["mp4", "mkv", "MOV", "avi", "webm", "m4a", "wmv"])
@pytest.mark.parametrize("named", [True, False])
def test_films_are_found_like_other_recordings(tmp_path: Path, fetched: Any, ending: str, named: bool) -> None:
    write_audio(tmp_path / "a.wav")
    (tmp_path / f"film.{ending}").write_bytes(b"\0\0\0\x18ftypmp42")
    rows = [{"audio": "a.wav", "text": "one"}, {"audio": f"film.{ending}" if named else "film", "text": "two"}]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))
    assert said(got) == {"a.wav": "one", f"film.{ending}": "two"}


@pytest.mark.parametrize("ending", ["aax", "m4p"])
def test_files_under_copy_protection_are_left_out_by_row(tmp_path: Path, fetched: Any, ending: str) -> None:
    write_audio(tmp_path / "a.wav")
    (tmp_path / f"book.{ending}").write_bytes(b"\0\0\0\x1cftypaax ")
    rows = [{"audio": "a.wav", "text": "one"}, {"audio": f"book.{ending}", "text": "two"}]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))
    assert said(got) == {"a.wav": "one"}
    assert "copy protection (DRM)" in reasons(got)[f".{ending} files cannot be read"]


def test_a_recording_without_its_ending_that_comes_late_is_looked_for(tmp_path: Path, fetched: Any) -> None:
    write_audio(tmp_path / "a.wav")
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", [{"audio": n, "text": "x"} for n in ("a", "b.1")]))
    assert str(tmp_path / "b.1.flac") in got["rejected"][0]["looked_for"]


def test_another_ending_is_hinted_at_and_not_taken(tmp_path: Path, fetched: Any) -> None:
    for name in ("a.wav", "b.flac"):
        write_audio(tmp_path / name)
    rows = [{"audio": n, "text": "x"} for n in ("a.wav", "b.mp3")]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))
    assert "there is b.flac" in reasons(got)["audio is missing"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_marks_in_either_form_in_a_tree(tmp_path: Path, fetched: Any, form: Any) -> None:
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    noise(tmp_path / "c" / unicodedata.normalize(form, "ö/ñandú.wav"), seed=1)
    write(tmp_path / "c" / "metadata.csv", unicodedata.normalize(other, "file_name,text\nñandú,x\n"))
    assert len(fetched(DATA_DIR=tmp_path / "c")["train"]) == 1


def test_the_same_recording_in_other_formats_and_no_other(tmp_path: Path) -> None:
    one = noise(tmp_path / "1.wav", seed=1, seconds=3)
    samples, rate = soundfile.read(one)
    for ending in ("mp3", "ogg", "flac"):
        soundfile.write(tmp_path / f"1.{ending}", 0.5 * samples, rate)
        assert same_recording(one, tmp_path / f"1.{ending}")
    assert not same_recording(one, noise(tmp_path / "2.wav", seed=2, seconds=3))
    assert not same_recording(write_audio(tmp_path / "3.wav", seed=0), write_audio(tmp_path / "4.wav", seed=1))
    soundfile.write(tmp_path / "half.wav", samples[: len(samples) // 2], rate)
    assert not same_recording(one, tmp_path / "half.wav")
    write(tmp_path / "no.wav", "no audio")
    assert not same_recording(one, tmp_path / "no.wav")


NAME = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


@settings(max_examples=200)
@given(name=NAME.filter(lambda n: n.strip(". ") and not n.startswith("._")), other=NAME)
def test_an_index_gives_the_file_of_a_name_and_of_no_other(name: str, other: str) -> None:
    """Whatever letters and dots a name has."""
    stem = listing.audio_files.stem(name)
    found = listing.Names(iter([Path("x") / f"{stem}.wav"]))
    if stem and not stem.startswith("._"):
        assert found.spelled_like(f"{stem}.wav") == [Path("x") / f"{stem}.wav"]
    if listing.key(listing.audio_files.stem(other)) != listing.key(stem):
        assert found.spelled_like(other) == []


@pytest.mark.parametrize("folders", ["C:\\\\Users\\\\me\\\\One Drive, AS\\\\", "/data/upload/1/", "old/"])
def test_a_name_with_the_folders_of_another_machine_is_answered_with_the_file_that_is_here(
    tmp_path: Path, fetched: Any, folders: str
) -> None:
    write_audio(tmp_path / "u1.wav")
    path = write_lines(tmp_path / "t.jsonl", [{"audio": f"{folders}u1.wav", "text": "one"}])
    with pytest.raises(BadInput, match=r"audio is missing.*there is u1\.wav: write names without the folders"):
        fetched(TRAIN_JSONL=path)


@pytest.mark.parametrize("printed", ["{'path': 'u1.wav', 'bytes': None}", "{'bytes': b'RIFF', 'path': 'u1.wav'}"])
def test_an_object_that_was_printed_into_a_table_is_called_that(tmp_path: Path, fetched: Any, printed: str) -> None:
    path = write_lines(tmp_path / "t.jsonl", [{"audio": printed, "text": "one"}])
    with pytest.raises(BadInput, match=r"audio is a printed object.*write the path alone"):
        fetched(TRAIN_JSONL=path)


@pytest.mark.parametrize(
    "value",
    [
        "ftp://h/amber.wav",
        "hf://datasets/a/b/amber.wav",
        "gcs://h/amber.wav",
        "HTTP://h/amber.wav",
        "file://h/amber.wav",
    ],
)
def test_an_address_in_the_folders_own_table_is_a_row_left_out(tmp_path: Path, fetched: Any, value: str) -> None:
    for number, name in enumerate(("amber.wav", "b.wav")):
        noise(tmp_path / "c" / name, seed=number)
    write(tmp_path / "c" / "metadata.csv", f"audio,text\n{value},one\nb.wav,two\n")
    got = fetched(DATA_DIR=tmp_path / "c")
    assert said(got) == {"b.wav": "two"}
    assert [(row["row"], row["reason"]) for row in got["rejected"]] == [(2, "audio is missing")]


def test_a_recording_written_as_text_is_not_looked_for_by_its_parts(tmp_path: Path) -> None:
    """Base64 has slashes: each would be taken for a folder's end, and there are thousands in each row."""
    noise(tmp_path / "amber.wav", seed=1)
    finder = Finder()
    error = finder.missing("UklGR/" * 200_000 + "amber.wav", "audio", [tmp_path], tmp_path)
    assert "there is" not in str(error.detail)
    deep = finder.missing("/gone/" + "a/b/" * 100 + "amber.wav", "audio", [tmp_path], tmp_path)
    assert "there is amber.wav" in str(deep.detail)
