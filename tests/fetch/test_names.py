"""Files and speakers whose names are not plain ASCII: from macOS, from old archives, by links, in capitals."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from job.core.errors import BadInput
from tests.fetch.conftest import write_audio, write_lines

#: Hooked letters of Hausa have no decomposed form, Norwegian å and é have one.
NAMES = ("blåbær é.wav", "ɓaɗa ƙasa.wav", "你好.wav")


def audio(row: dict[str, Any]) -> str:
    return unicodedata.normalize("NFC", Path(row["audio"]).name)


@pytest.mark.parametrize(("on_disk", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("slash", ["/", "\\"])
def test_letters_with_marks_are_found_in_either_form(
    tmp_path: Path, fetched: Any, on_disk: Any, written: Any, slash: str
) -> None:
    """macOS and its archives decompose names; people and other systems write them composed."""
    for number, name in enumerate(NAMES):
        write_audio(tmp_path / "my æ" / unicodedata.normalize(on_disk, name), seed=number)
    rows = [{"audio": unicodedata.normalize(written, f"my æ{slash}{name}"), "text": "x"} for name in NAMES]
    rows.append({"audio": str(tmp_path / unicodedata.normalize(written, f"my æ/{NAMES[0]}")), "text": "x"})
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))
    assert [audio(row) for row in got["train"]] == [*NAMES, NAMES[0]]
    assert all(Path(row["audio"]).is_file() for row in got["train"])


def test_one_speaker_in_two_forms_is_one_voice(tmp_path: Path, fetched: Any) -> None:
    """A name in the form that nobody types could never be spoken."""
    write_audio(tmp_path / "a.wav")
    names = ("Åse", unicodedata.normalize("NFD", "Åse"), "ÅSE ")
    path = write_lines(tmp_path / "t.jsonl", [{"audio": "a.wav", "text": "x", "speaker": name} for name in names])
    got = fetched(TRAIN_JSONL=path)
    assert [row["speaker"] for row in got["train"]] == ["åse"] * 3
    assert got["counts"]["speakers"] == 1


def test_names_in_an_old_encoding_are_listed_and_the_other_rows_kept(
    tmp_path: Path, fetched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "voice"
    write_audio(root / "good.wav").with_suffix(".txt").write_text("good", encoding="utf-8")
    raw = os.fsencode(root)
    for name, text in (
        (b"caf\xe6.wav", None),
        (b"caf\xe7.wav", b"x"),
        (b"caf\xe8.wav", b"\xe9"),
        (b"caf\xe9.m4p", None),
    ):
        try:
            shutil.copy(os.fsencode(root / "good.wav"), raw + b"/" + name)
        except OSError:
            pytest.skip("this file system takes only UTF-8 names")
        if text is not None:
            with open(raw + b"/" + name[:-3] + b"txt", "wb") as handle:
                handle.write(text)
    got = fetched(DATA_DIR=root)
    assert [Path(row["audio"]).name for row in got["train"]] == ["good.wav"]
    details = {row["reason"]: row["detail"] for row in got["rejected"]}
    assert set(details) == {
        "audio without text",
        "audio has a name that is not UTF-8",
        "text is not UTF-8",
        ".m4p files cannot be read",
    }
    assert "caf\\udce7.wav" in details["audio has a name that is not UTF-8"]
    assert "rename it" in details["audio has a name that is not UTF-8"]
    assert "save it as UTF-8" in details["text is not UTF-8"]
    assert "caf" in capsys.readouterr().err


def test_endings_in_capitals(tmp_path: Path, fetched: Any) -> None:
    """Recorders and Windows programs write A.WAV, A.TXT and REF.WAV."""
    root = tmp_path / "voice"
    for name in ("A.WAV", "b.Flac", "sub/C.MP3"):
        write_audio(root / name).with_suffix(".txt" if name == "b.Flac" else ".TXT").write_text(name, encoding="utf-8")
    write_audio(root / "REF.WAV", seed=1)
    got = fetched(DATA_DIR=root)
    assert [row["text"] for row in got["train"]] == ["A.WAV", "b.Flac", "sub/C.MP3"]
    assert {Path(row["ref_audio"]).name for row in got["train"]} == {"REF.WAV"}
    assert got["rejected"] == []


def test_linked_folders_are_read_once(tmp_path: Path, fetched: Any) -> None:
    """Recordings on a share, linked into the folder; a link that goes in a circle; a folder with a link beside it."""
    share, root = tmp_path / "share", tmp_path / "voice"
    write_audio(share / "one.wav").with_suffix(".txt").write_text("one", encoding="utf-8")
    write_audio(root / "own" / "two.wav").with_suffix(".txt").write_text("two", encoding="utf-8")
    (root / "chapter").symlink_to(share)
    (root / "circle").symlink_to(root)
    (root / "again").symlink_to(root / "own")
    (root / "..data").symlink_to(share)
    got = fetched(DATA_DIR=root, SPEAKER_NAME="me")
    assert [row["id"] for row in got["train"]] == ["chapter_one", "own_two"]


def test_a_folder_above_the_one_with_the_metadata_is_told_which(tmp_path: Path, fetched: Any) -> None:
    root = tmp_path / "lora_datasets"
    write_audio(root / "eva" / "a.wav")
    write_lines(root / "eva" / "metadata.jsonl", [{"audio_filepath": "a.wav", "text": "x"}])
    with pytest.raises(BadInput, match=r"none of its 1 recordings has a \.txt .* set DATA_DIR to .*/eva,") as caught:
        fetched(DATA_DIR=root)
    assert "\n" not in str(caught.value)
    (root / "eva" / "metadata.jsonl").unlink()
    with pytest.raises(BadInput, match=r"has a \.txt of its name beside it; TRANSCRIBE=auto transcribes them$"):
        fetched(DATA_DIR=root)
