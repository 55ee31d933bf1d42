"""Ordinary corpora are read, however short, alike or oddly spelled what is said in them looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from job.core.errors import BadInput
from tests.fetch.conftest import write_audio
from tests.fetch.test_trees import said, write

NAMES = [f"rec_{n:03d}" for n in range(1, 13)]


def recordings(folder: Path, names: list[str] = NAMES) -> Path:
    for number, name in enumerate(names):
        write_audio(folder / f"{name}.wav", seconds=0.2, seed=number)
    return folder


def repeated(texts: list[str]) -> list[str]:
    return (texts * len(NAMES))[: len(NAMES)]


@pytest.mark.parametrize("beside", ["", "wav"])
@pytest.mark.parametrize(
    "texts",
    [
        ["seven", "three", "nine"],
        ["open the door", "close the window", "turn on the light"],
        ["7", "3", "9"],
        ["3 1 4", "1 5 9"],
        ["今天", "好的", "公园"],
        ["yes", "no"],
        ["THE OLD MAN WALKED DOWN TO THE RIVER"],
        ["ja", "nei"],
    ],
)
def test_a_list_of_names_and_texts_that_repeat_is_read(
    tmp_path: Path, fetched: Any, texts: list[str], beside: str
) -> None:
    recordings(tmp_path / "in" / beside)
    lines = [f"{name} {text}\n" for name, text in zip(NAMES, repeated(texts), strict=True)]
    write(tmp_path / "in" / "list.txt", "".join(lines))
    assert list(said(fetched(DATA_DIR=tmp_path / "in", TRANSCRIBE="auto")).values()) == repeated(texts)


@pytest.mark.parametrize(
    ("texts", "cause"),
    [
        (["24000", "1.25"], "numbers, ids or addresses follow the names"),
        (["reader2", "reader7"], "numbers, ids or addresses follow the names, as 'reader2'"),
        (["Anna"], "'Anna' follows each name, as a speaker does"),
        (["nb", "en", "sv"], "languages follow the names"),
    ],
)
def test_a_list_of_what_nobody_says_is_refused_for_what_it_is(
    tmp_path: Path, fetched: Any, texts: list[str], cause: str
) -> None:
    folder = recordings(tmp_path / "in")
    rows = list(zip(NAMES, repeated(texts), strict=True))
    write(folder / "list.txt", "".join(f"{name} {text}\n" for name, text in rows))
    with pytest.raises(BadInput, match=f"list.txt names the recordings and is not read: {cause}.*; write it as"):
        fetched(DATA_DIR=folder, TRANSCRIBE="auto")
    write(folder / "metadata.csv", "audio|text\n" + "".join(f"{name}.wav|{text}\n" for name, text in rows))
    assert len(fetched(DATA_DIR=folder)["train"]) == len(NAMES), "the way out that the message names"


@pytest.mark.parametrize(
    "texts",
    [
        ["Kanien’kéha ìːioht ne orihwa", "Tsi nahò:ten waʔkhehrori ne", "Skáhne wahatiːyo tsi ionnheːkon"],
        ["goa2 si7 tai5 oan5 lang5", "li2 ho2 ma3", "lang5 chin1 che7 e5"],
    ],
)
@pytest.mark.parametrize("form", ["files", "table"])
def test_languages_that_look_like_phonemes_are_words(tmp_path: Path, fetched: Any, texts: list[str], form: str) -> None:
    folder = recordings(tmp_path / "in", NAMES[:3])
    if form == "table":
        lines = [f"{name}.wav|{text}\n" for name, text in zip(NAMES, texts, strict=False)]
        write(folder / "metadata.csv", "audio|text\n" + "".join(lines))
    else:
        for name, text in zip(NAMES, texts, strict=False):
            write(folder / f"{name}.txt", text)
    got = fetched(DATA_DIR=folder, TRANSCRIBE="auto")
    assert (list(said(got).values()), got["rejected"]) == (texts, [])


@pytest.mark.parametrize("capitals_first", [True, False])
def test_a_column_of_capitals_alone_is_not_the_properly_written_one(
    tmp_path: Path, fetched: Any, capitals_first: bool
) -> None:
    folder = recordings(tmp_path / "in", NAMES[:2])
    plain = ["The cat sat on the mat, and slept.", "It was raining, so nobody came."]
    pairs = [(text.upper().replace(",", "").replace(".", ""), text) for text in plain]
    lines = "".join(
        "\t".join((f"{n}.wav", *(p if capitals_first else p[::-1]))) + "\n" for n, p in zip(NAMES, pairs, strict=False)
    )
    assert list(said(fetched(TRAIN_JSONL=write(folder / "train.tsv", lines))).values()) == plain


@pytest.mark.parametrize(
    "texts", [["seven", "three", "nine", "one"], ["It is eleven.", "Maybe tomorrow.", "Do not forget a jacket."]]
)
def test_texts_that_repeat_are_read_beside_notes(tmp_path: Path, fetched: Any, texts: list[str]) -> None:
    folder = recordings(tmp_path / "in")
    rows = [
        f"{name}.wav|{text}|Take number {n} was recorded in the small room on a rainy day.\n"
        for n, (name, text) in enumerate(zip(NAMES, repeated(texts), strict=True))
    ]
    write(folder / "metadata.csv", "audio|text|notes\n" + "".join(rows))
    assert list(said(fetched(DATA_DIR=folder)).values()) == repeated(texts)


def test_initials_that_stand_for_nothing_elsewhere_are_speakers(tmp_path: Path, fetched: Any) -> None:
    """Two people in one voice would be heard only when the training is paid for."""
    folder = recordings(tmp_path / "in", NAMES[:4])
    rows = [
        f"{name}.wav|{who}|Words of {name}.\n" for name, who in zip(NAMES, ["JB", "NA", "TBD", "nan"], strict=False)
    ]
    write(folder / "metadata.csv", "audio|speaker|text\n" + "".join(rows))
    assert [row["speaker"] for row in fetched(DATA_DIR=folder)["train"]] == ["jb", "na", "tbd", None]
