"""Tables that people made for themselves: a header in their language, names typed on macOS or Windows.

No row may be lost to a header that is not seen, nor a table's texts to names that do not match: a recogniser would be
asked instead, and nobody would know.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from job.core.errors import BadInput
from tests.fetch.conftest import write_audio

HAUSA = "Fayil;Jimla da aka faɗa;Tsawo (s);Mai magana"
TEXTS = ["Sannu, ina kwana?", "Ɓarawo ya ɗauki ƙaramar jaka.", "‘Yar’uwata ta ce: “Na gode.”", "Babu."]


def table(root: Path, header: str, name: str = "rikodi_ƙàrá_{n}.wav", form: str = "utf-8") -> Path:
    """Recordings named as macOS does (NFD), and a table whose rows name them after `name`."""
    rows = []
    for number, text in enumerate(TEXTS):
        file = f"rikodi_ƙàrá_{number}.wav"
        write_audio(root / "babi 1" / unicodedata.normalize("NFD", file), seed=number)
        extra = [f"{number},5", "Bala"][: header.count(";") - 1]
        rows.append(";".join([name.format(n=number), text, *extra]))
    path = root / "jerin.csv"
    path.write_bytes("\r\n".join([header, *rows, ""]).encode(form))
    return path


@pytest.mark.parametrize(
    "header",
    [
        HAUSA,
        unicodedata.normalize("NFD", "Fil;Tekst på norsk"),
        "Recording/File;What is said",
        "#;Sentence [hau]",
        "फ़ाइल;वाक्य जो बोला गया",
    ],
)
def test_a_header_in_any_words_is_a_header(tmp_path: Path, fetched: Any, header: str) -> None:
    table(tmp_path / "in", header)
    got = fetched(DATA_DIR=tmp_path / "in", LANGUAGE="Hausa")
    assert [row["text"] for row in got["train"]] == TEXTS and not got["rejected"]


def test_columns_can_be_named_as_the_table_names_them(tmp_path: Path, fetched: Any) -> None:
    table(tmp_path / "in", HAUSA)
    named = {"TEXT_COLUMN": "Jimla da aka faɗa", "AUDIO_COLUMN": "Fayil", "SPEAKER_COLUMN": "Mai magana"}
    got = fetched(DATA_DIR=tmp_path / "in", LANGUAGE="Hausa", **named)
    assert {row["speaker"] for row in got["train"]} == {"bala"}


@pytest.mark.parametrize("form", ["utf-8", "utf-16"])
def test_a_mistyped_column_is_named_with_those_of_the_folders_own_table(
    tmp_path: Path, fetched: Any, form: str
) -> None:
    table(tmp_path / "in", HAUSA, form=form)
    with pytest.raises(BadInput, match=r"TEXT_COLUMN=Jimlar: no row of jerin.csv .* it has Fayil, Jimla da aka faɗa"):
        fetched(DATA_DIR=tmp_path / "in", TEXT_COLUMN="Jimlar", TRANSCRIBE="auto")


def test_a_first_row_without_an_ending_is_no_header(tmp_path: Path, fetched: Any) -> None:
    """A sentence stays a row, though its recording is named otherwise than the others."""
    path = table(tmp_path / "in", "Fayil;Babu kowa a nan yau")
    path.write_text(path.read_text(encoding="utf-8").replace("?", "").replace(".\r", "\r").replace("”", ""), "utf-8")
    got = fetched(DATA_DIR=tmp_path / "in")
    assert len(got["train"]) == 4 and [row["row"] for row in got["rejected"]] == [1]


def test_paths_of_another_machine_are_refused_with_the_file_that_is_here(tmp_path: Path, fetched: Any) -> None:
    table(tmp_path / "in", HAUSA, name="C:\\Users\\Ɓala\\Desktop\\babi 1\\rikodi_ƙàrá_{n}.wav")
    with pytest.raises(BadInput, match=r"there is babi 1/.*: write names without the folders of another machine"):
        fetched(DATA_DIR=tmp_path / "in")


def test_a_table_of_other_recordings_is_asked_about_before_they_are_transcribed(tmp_path: Path, fetched: Any) -> None:
    """Excel writes `?` where it has no letter: such names match no file, and a recogniser would write the texts."""
    table(tmp_path / "in", HAUSA, name="rikodi_?ara_{n}.wav")
    with pytest.raises(BadInput, match=r"jerin.csv names recordings that are not in .*'rikodi_\?ara_0.wav': correct"):
        fetched(DATA_DIR=tmp_path / "in", TRANSCRIBE="auto")


@pytest.mark.parametrize("first", ["alpha.raw|Good morning to you all", "clips/alpha.wave|Yes", "alpha(1).wave|Yes"])
def test_a_first_recording_of_an_unknown_ending_is_a_row(tmp_path: Path, fetched: Any, first: str) -> None:
    for number in range(3):
        write_audio(tmp_path / "in" / f"c{number}.wav", seed=number)
    rows = [first, *(f"c{number}.wav|It is number {number}." for number in range(3))]
    (tmp_path / "in" / "metadata.csv").write_text("\n".join(rows))
    got = fetched(DATA_DIR=tmp_path / "in")
    assert [row["text"] for row in got["train"]] == [f"It is number {number}." for number in range(3)]
    assert [(row["row"], row["reason"]) for row in got["rejected"]] == [(1, "audio is missing")]


def test_a_header_with_dots_is_a_header(tmp_path: Path, fetched: Any) -> None:
    for number in range(3):
        write_audio(tmp_path / "in" / f"c{number}.wav", seed=number)
    rows = ["fil.navn|setning.norsk", *(f"c{number}.wav|It is number {number}." for number in range(3))]
    (tmp_path / "in" / "metadata.csv").write_text("\n".join(rows))
    got = fetched(DATA_DIR=tmp_path / "in")
    assert len(got["train"]) == 3 and not got["rejected"]
