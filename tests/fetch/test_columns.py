"""Which column is the text: told by what rows hold, said in one line, and refused where two readings fit alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from job import fetch
from job.config import settings as variables
from job.core.errors import BadInput
from tests.fetch.conftest import write_audio, write_lines

ENGLISH = [
    "She came home late that night.",
    "Nobody had seen the letter before.",
    "It was raining, and they waited.",
    "Who told you about the house?",
    "There were twelve of them in all.",
    "He laughed and shut the door.",
]
HAUSA = [
    "Ina kwana, yaya gida?",
    "Mun je kasuwa jiya da yamma.",
    "Ruwa ya yi yawa a bana.",
    "Ƙofar gidan tana buɗe.",
    "Yara suna wasa a waje.",
    "Na gode ƙwarai da gaske.",
]
CHINESE = ["今天天气很好", "我们去学校吧", "他没有看见那封信", "雨下得很大", "谁告诉你的", "门已经关上了"]
NORWEGIAN = [
    "Hun kom hjem sent i går.",
    "Ingen hadde sett brevet før.",
    "Det regnet hele dagen.",
    "Hvem sa det til deg?",
    "Blåbærene er modne nå.",
    "Han lo og lukket døra.",
]


def corpus(root: Path, form: str, texts: list[str], name: str = "list.txt", header: str = "") -> Path:
    """A file with a row of `form` for each text, and a recording for each."""
    lines = [header] if header else []
    for n, text in enumerate(texts):
        write_audio(root / "wavs" / f"u{n}.wav", 0.1, seed=n)
        who = ("eva", "adam")[n % 2]
        lines.append(form.format(n=n, text=text, who=who, number=n % 2, norm=text.replace("twelve", "12")))
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / name


FORMS = [
    ("u{n}.wav|{text}|{number}", ""),
    ("u{n}|{who}|{text}", ""),
    ("{root}/wavs/u{n}.wav|{who}|ZH|{text}", ""),
    ("wavs/u{n}.wav|{number}|{text}", ""),
    ("u{n}|{text}", ""),
    ("{text}\tu{n}.wav", ""),
    ("{number}\t{who}\ten\twavs\\u{n}.wav\t{text}\t1.{n}5", ""),
    ("wavs/u{n}.wav|{text}|{who}", "audio_file|text|speaker_name"),
    ("wavs/u{n}.wav|{text}", "audio_file|text"),
    ("{who};{text};wavs/u{n}.wav", "Speaker ID;Sentence;File-Name"),
    ("u{n}.wav\t{text}", "clip\tsaid"),
    ("u{n}|{text}", "id|text"),
]
LANGUAGES = {"english": ENGLISH, "hausa": HAUSA, "chinese": CHINESE, "norwegian": NORWEGIAN}


@pytest.mark.parametrize(
    ("form", "header", "language"),
    [
        pytest.param(*form, language, marks=() if number % len(LANGUAGES) == place else pytest.mark.thorough)
        for number, form in enumerate(FORMS)
        for place, language in enumerate(LANGUAGES)
    ],
)
def test_the_text_is_the_column_with_the_sentences(
    tmp_path: Path, fetched: Any, capsys: pytest.CaptureFixture[str], form: str, header: str, language: str
) -> None:
    """File lists of VITS, GPT-SoVITS, XTTS, F5, LJSpeech and ones that nobody has a name for, in four languages."""
    texts = LANGUAGES[language]
    got = fetched(TRAIN_JSONL=corpus(tmp_path, form.replace("{root}", str(tmp_path)), texts, header=header))
    assert [row["text"] for row in got["train"]] == texts
    assert [Path(row["audio"]).name for row in got["train"]] == [f"u{n}.wav" for n in range(len(texts))]
    assert [row["row"] for row in got["train"]] == list(range(1 + bool(header), len(texts) + 1 + bool(header)))
    said = capsys.readouterr().out
    assert "text is " in said and "audio is " in said
    assert ("which has no header" in said) == (not header)
    if "{who}" in form:
        assert "SPEAKER_COLUMN=" in said, "two people do not become one voice without a word"


@pytest.mark.parametrize("named", ["2", "column 2", "column_2", "Column_2"])
def test_a_column_without_a_name_is_named_by_its_position_and_no_row_is_lost(
    tmp_path: Path, fetched: Any, named: str
) -> None:
    got = fetched(TRAIN_JSONL=corpus(tmp_path, "u{n}|{who}|{text}", ENGLISH), SPEAKER_COLUMN=named)
    assert [row["speaker"] for row in got["train"]] == ["eva", "adam"] * 3
    with pytest.raises(BadInput, match=r"TEXT_COLUMN=9: .*it has column_1, column_2, column_3; .*by position, from 1"):
        fetched(TRAIN_JSONL=tmp_path / "list.txt", TEXT_COLUMN="9")


def test_a_header_put_above_a_table_without_one_loses_no_row(tmp_path: Path, fetched: Any) -> None:
    for header in ("", "file|speaker|text", "file;speaker;text", "lyd,hvem,text"):
        form = "u{n}.wav|{who}|{text}".replace("|", header[4] if header[:4] == "file" else "|")
        if header.startswith("lyd"):
            form = 'u{n}.wav,{who},"{text}"'
        got = fetched(TRAIN_JSONL=corpus(tmp_path, form, ENGLISH, header=header))
        assert [row["text"] for row in got["train"]] == ENGLISH, header


@pytest.mark.parametrize(
    ("form", "variable"),
    [
        ("u{n}.wav|{text}|translated {text} into something else {n}", "TEXT_COLUMN=column_"),
        ("u{n}.wav|{who} {n}|hi {who}", "TEXT_COLUMN=column_"),
        ("u{n}.wav\t{text}\twɛn ðə {n} kæt sæt ɒn ðə mæt əv ɪt", "TEXT_COLUMN=column_"),
        ("u{n}.wav\twavs/u{n}.wav\t{text}", "AUDIO_COLUMN=column_1"),
    ],
)
def test_two_readings_that_fit_alike_are_refused_with_the_variable(
    tmp_path: Path, fetched: Any, form: str, variable: str
) -> None:
    path = corpus(tmp_path, form, ENGLISH)
    with pytest.raises(BadInput, match=variable) as caught:
        fetched(TRAIN_JSONL=path)
    assert "\n" not in str(caught.value)
    fix = {"TEXT_COLUMN": "column_2"} if "TEXT" in variable else {"AUDIO_COLUMN": "1"}
    assert len(fetched(TRAIN_JSONL=path, **fix)["train"]) == len(ENGLISH), "what is advised can be done"


@pytest.mark.parametrize("order", ["u{n}|{norm}|{text}", "u{n}|{text}|{norm}"])
def test_of_a_sentence_and_its_normalized_form_the_written_out_one_wins(
    tmp_path: Path, fetched: Any, order: str
) -> None:
    texts = [*ENGLISH, "In twelve days twelve men came.", "Chapter twelve begins here."]
    got = fetched(TRAIN_JSONL=corpus(tmp_path, order, texts, "metadata.csv"))
    assert [row["text"] for row in got["train"]] == texts


NO_TEXTS = [
    ([str(n) for n in range(6)], "numbers"),
    ([f"wavs/u{n}.wav" for n in range(6)], "names of recordings"),
    ([f"utt_{n:04d}" for n in range(6)], "ids or paths"),
    (["neutral"] * 6, "the same value"),
    (["en", "no"] * 3, "languages"),
]


@pytest.mark.parametrize(
    ("kind", "values", "what"),
    [
        pytest.param(kind, *column, marks=() if number % 3 == place else pytest.mark.thorough)
        for number, column in enumerate(NO_TEXTS)
        for place, kind in enumerate(["jsonl", "csv", "parquet"])
    ],
)
def test_a_column_called_text_that_holds_none_is_refused_while_another_holds_sentences(
    tmp_path: Path, fetched: Any, kind: str, values: list[str], what: str
) -> None:
    """A name is no proof; TEXT_COLUMN is obeyed."""
    for n in range(6):
        write_audio(tmp_path / "wavs" / f"u{n}.wav", 0.1)
    rows = [{"audio": f"wavs/u{n}.wav", "text": values[n], "words": NORWEGIAN[n]} for n in range(6)]
    path = tmp_path / f"t.{kind}"
    if kind == "jsonl":
        write_lines(path, rows)
    elif kind == "csv":
        path.write_text("audio,text,words\n" + "".join(",".join(row.values()) + "\n" for row in rows), encoding="utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(BadInput, match=rf"column text holds {what}.*TEXT_COLUMN=words, or TEXT_COLUMN=text"):
        fetched(TRAIN_JSONL=path)
    assert [row["text"] for row in fetched(TRAIN_JSONL=path, TEXT_COLUMN="words")["train"]] == NORWEGIAN
    assert [row["text"] for row in fetched(TRAIN_JSONL=path, TEXT_COLUMN="text")["train"]] == values


def test_digits_that_are_read_aloud_are_a_text(tmp_path: Path, fetched: Any) -> None:
    """Spoken digits, and yes and no, are no mistake where nothing else could be the text."""
    for texts in (["0", "1", "2", "3"], ["yes", "no", "yes", "no"]):
        rows = [{"audio": str(write_audio(tmp_path / f"{n}.wav", 0.1)), "text": t} for n, t in enumerate(texts)]
        assert [r["text"] for r in fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))["train"]] == texts


def test_the_doctor_says_the_same_columns(tmp_path: Path) -> None:
    path = corpus(tmp_path, "u{n}|{who}|{text}", HAUSA)
    loaded = variables.load({"TRAIN_JSONL": str(path), "WORK_DIR": str(tmp_path / "work")})
    assert "(text in column_3, audio in column_1)" in fetch.check(loaded)


def test_a_file_list_that_is_json_lines_is_read_as_such(tmp_path: Path, fetched: Any) -> None:
    write_audio(tmp_path / "a.wav")
    (tmp_path / "t.txt").write_text(json.dumps({"audio": "a.wav", "text": "one"}) + "\n", encoding="utf-8")
    assert fetched(TRAIN_JSONL=tmp_path / "t.txt")["train"][0]["text"] == "one"


_SPOKEN = ["He came home late.", "The dog barked twice.", "It rained all day.", "Nobody knew the way.", "They left."]


@pytest.mark.parametrize("called", ["speaker", "language", "id"])
@pytest.mark.parametrize("label", ["anna", "spk{n}", "{n}", "en"])
def test_names_of_columns_that_were_swapped_are_refused_and_the_advice_holds(
    tmp_path: Path, fetched: Any, called: str, label: str
) -> None:
    rows = [f"audio,{called},text"]
    for n, text in enumerate(_SPOKEN):
        write_audio(tmp_path / f"{n}.wav", seed=n)
        rows.append(f"{n}.wav,{text},{label.format(n=n % 3)}")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(BadInput, match=f"column text holds .* and column {called} sentences .*TEXT_COLUMN={called}"):
        fetched(TRAIN_JSONL=tmp_path / "t.csv")
    got = fetched(TRAIN_JSONL=tmp_path / "t.csv", TEXT_COLUMN=called)["train"]
    assert [row["text"] for row in got] == _SPOKEN
    assert {row[called] for row in got if called != "id"} <= {None}


def test_long_names_of_speakers_beside_short_words_are_no_swap(tmp_path: Path, fetched: Any) -> None:
    rows = ["audio,speaker,text"]
    for n, text in enumerate(["yes", "no", "stop", "go", "left", "right"]):
        write_audio(tmp_path / f"{n}.wav", seed=n)
        rows.append(f"{n}.wav,{('Anna Maria Olsen', 'Jean Paul Dubois')[n % 2]},{text}")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    got = fetched(TRAIN_JSONL=tmp_path / "t.csv")["train"]
    assert [row["text"] for row in got] == ["yes", "no", "stop", "go", "left", "right"]


@pytest.mark.parametrize(
    ("others", "refused"),
    [
        (["Chapter one of the book", "Chapter two of the book", "A word to the reader", "The end of it all"], True),
        (["彼は遅く帰った", "犬が二度吠えた", "一日中雨だった", "誰も道を知らない"], True),
        (["HE CAME HOME LATE", "the dog barked twice", "It rained, all day!", "nobody knew the way"], False),
        (["He came home at 8.", "The dog barked 2 times.", "It rained all day.", "Nobody knew the way."], False),
    ],
)
def test_two_columns_called_like_texts_must_hold_the_same_sentences(
    tmp_path: Path, fetched: Any, others: list[str], refused: bool
) -> None:
    rows = []
    for n, (text, other) in enumerate(zip(_SPOKEN, others, strict=False)):
        write_audio(tmp_path / f"{n}.wav", seed=n)
        rows.append({"audio": f"{n}.wav", "text": other, "sentence": text})
    path = write_lines(tmp_path / "t.jsonl", rows)
    if not refused:
        assert [row["text"] for row in fetched(TRAIN_JSONL=path)["train"]] == others
        return
    with pytest.raises(BadInput, match=r"columns text .* and sentence .* different sentences; .*TEXT_COLUMN=sentence"):
        fetched(TRAIN_JSONL=path)
    got = fetched(TRAIN_JSONL=path, TEXT_COLUMN="sentence")["train"]
    assert [row["text"] for row in got] == _SPOKEN[:4]
