"""What is said, by whom, and for how long at most."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest

from job.config.settings import Settings, load
from job.core.errors import BadInput
from job.evaluate import spoken_texts
from job.model.loading import ModelConfig

CONFIG = ModelConfig({"talker_config": {"codec_language_id": {"english": 2050, "german": 2053}}})


def rows(*lengths: int, speaker: str = "a", language: str = "auto") -> list[spoken_texts.Row]:
    one = {"speaker": speaker, "language": language, "instruct": None}
    return [{"text": f"{speaker}{'x' * length}", **one} for length in lengths]


def test_texts_come_from_the_variable_or_from_the_file_it_names(tmp_path: Path):
    assert spoken_texts.parse_texts("One. | Two?||") == ["One.", "Two?"]
    (tmp_path / "say.txt").write_text("\ufeffFirst | line\n\n  Second  \n", encoding="utf-8")
    assert spoken_texts.parse_texts(str(tmp_path / "say.txt")) == ["First | line", "Second"]
    assert spoken_texts.texts_file(str(tmp_path / "say.txt")) == tmp_path / "say.txt"
    assert spoken_texts.texts_file("One.|Two.") is None


def test_a_text_too_long_for_a_file_name_is_a_text():
    assert spoken_texts.parse_texts("word " * 2000) == [("word " * 2000).strip()]


@pytest.mark.parametrize("value", ["missing.txt", "MISSING.TXT", "texts.csv", "/no/such/file", "|", " | "])
def test_a_misspelled_file_or_nothing_at_all_is_refused(value: str):
    with pytest.raises(BadInput, match="TEST_TEXTS"):
        spoken_texts.parse_texts(value)


@pytest.mark.parametrize("value", ["sentences.md", "texts.jsonl", "lines.text", "~/texts.xlsx"])
def test_the_name_of_a_file_that_is_not_here_is_not_read_aloud(value: str):
    with pytest.raises(BadInput, match=r"TEST_TEXTS=\S+: no such file"):
        spoken_texts.parse_texts(value)


def test_a_folder_and_a_text_without_words_are_called_what_they_are(tmp_path: Path):
    """Nothing can be heard wrong in a text that has no words, so every figure of it would mean nothing."""
    with pytest.raises(BadInput, match="a folder; name a text file"):
        spoken_texts.parse_texts(str(tmp_path))
    (tmp_path / "say.txt").write_text("Hello.\n***\n", encoding="utf-8")
    for value in ("Hello.|\U0001f642", str(tmp_path / "say.txt")):
        with pytest.raises(BadInput, match=r"TEST_TEXTS: text 2 \(.*\) has no words; leave it out"):
            spoken_texts.parse_texts(value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path):
    (tmp_path / "say.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(BadInput, match="UTF-8"):
        spoken_texts.parse_texts(str(tmp_path / "say.txt"))


def test_by_default_four_texts_of_the_data_from_shortest_to_longest():
    plan = spoken_texts.plan(Settings(), CONFIG, ["a"], [[], rows(*range(1, 100))])
    assert [len(one.text) - 1 for one in plan] == [1, 34, 66, 99]


def test_validation_texts_are_preferred_and_every_speaker_says_its_own():
    validation = rows(3, speaker="a")
    train = rows(1, 2, speaker="a") + rows(5, 6, speaker="b")
    plan = spoken_texts.plan(Settings(), CONFIG, ["a", "b"], [validation, train])
    assert {(one.speaker, one.text) for one in plan} == {("a", "axxx"), ("b", "bxxxxx"), ("b", "bxxxxxx")}


@pytest.mark.parametrize("speakers", [1, 2, 3, 8, 50])
@pytest.mark.parametrize("layout", ["non_streaming", "streaming", "mixed"])
def test_many_speakers_make_eight_files_at_most(speakers: int, layout: str):
    names = [f"s{n}" for n in range(speakers)]
    data = [row for name in names for row in rows(*range(1, 9), speaker=name)]
    plan = spoken_texts.plan(Settings(text_layout=layout), CONFIG, names, [data])
    assert 4 <= len(plan) <= spoken_texts.DEFAULT_FILES
    assert {one.layout for one in plan} == set(spoken_texts.LAYOUTS[layout])
    assert len(plan) == len(set(plan))


def test_given_texts_are_said_by_every_speaker_in_every_layout():
    plan = spoken_texts.plan(Settings(test_texts="One.|Two.", text_layout="mixed"), CONFIG, ["a", "b"], [])
    assert {(one.text, one.speaker, one.layout) for one in plan} == {
        (text, speaker, layout)
        for text in ("One.", "Two.")
        for speaker in ("a", "b")
        for layout in ("non_streaming", "streaming")
    }
    assert len(plan) == 8


def test_a_language_is_named_only_where_training_named_it():
    data = rows(1, 2, speaker="a", language="german") + rows(3, speaker="b", language="hausa")
    given = spoken_texts.plan(Settings(test_texts="Hi."), CONFIG, ["a", "b", "c"], [data])
    assert [one.language for one in given] == ["german", "Auto", "Auto"]
    own = spoken_texts.plan(Settings(), CONFIG, ["a", "b"], [data])
    assert {(one.speaker, one.language) for one in own} == {("a", "german"), ("b", "Auto")}
    fallback = spoken_texts.plan(Settings(test_texts="Hi.", language="English"), CONFIG, ["c"], [data])
    assert fallback[0].language == "english"


def test_nothing_to_say_names_the_variable():
    with pytest.raises(BadInput, match="TEST_TEXTS"):
        spoken_texts.plan(Settings(), CONFIG, ["a"], [])


def test_the_budget_follows_the_text_unless_it_is_given():
    assert spoken_texts.budget(Settings(), "x" * 100, 2.0) == 625
    assert spoken_texts.budget(Settings(), "Hi", 1.0) == 50
    assert spoken_texts.budget(load({"MAX_NEW_TOKENS": "7"}), "x" * 100, 2.0) == 7


def test_a_base_model_cannot_speak():
    base = ModelConfig({"tts_model_type": "base", "talker_config": {"spk_id": {}}})
    with pytest.raises(BadInput, match="no speaker"):
        spoken_texts.speakers_of(base, Path("somewhere"))


BASE_LANGUAGES = ("en", "zh", "ja", "ko", "de", "fr", "ru", "pt", "es", "it")
OTHERS = ("nb", "nn", "da", "sv", "nl", "pl", "tr", "hi", "ar", "sw", "ha", "yo")


@pytest.mark.parametrize("code", [*BASE_LANGUAGES, *OTHERS])
def test_texts_of_each_language_are_short_and_long_with_a_question_and_numbers(code: str):
    texts = spoken_texts.shipped(code)
    assert len(texts) == len(set(texts)) == 6
    assert all(text == text.strip() and unicodedata.is_normalized("NFC", text) for text in texts)
    lengths = [len(text) for text in texts]
    assert lengths[0] == min(lengths)
    assert lengths[-1] == max(lengths) > 3 * lengths[1], "a paragraph"
    assert texts[1][-1] in "?？؟か。"
    assert re.search(r"\d", texts[2])


def test_languages_are_found_by_any_name_and_never_guessed():
    assert spoken_texts.shipped("norwegian") == spoken_texts.shipped("nb_NO") == spoken_texts.shipped("nb")
    assert spoken_texts.shipped("Norwegian Nynorsk") == spoken_texts.shipped("nn")
    assert spoken_texts.shipped("Mandarin") == spoken_texts.shipped("chinese")
    assert [spoken_texts.shipped(name) for name in ("auto", "", "klingon", "My Own Tongue", "../texts/en")] == [[]] * 5


def test_by_default_texts_nobody_has_trained_on_come_first():
    """Six of the language of the data and two of the data; with more speakers fewer of each, all still eight files."""
    data = rows(*range(1, 20), language="german")
    plan = spoken_texts.plan(Settings(), CONFIG, ["a"], [data])
    assert [one.text for one in plan[:6]] == spoken_texts.shipped("de")
    assert [len(one.text) - 1 for one in plan[6:]] == [1, 19]
    assert {one.language for one in plan} == {"german"}
    two = spoken_texts.plan(Settings(), CONFIG, ["a", "b"], [data + rows(3, speaker="b", language="hausa")])
    assert [one.text in spoken_texts.shipped("ha") for one in two if one.speaker == "b"] == [True, True, True, False]
    assert len(spoken_texts.plan(Settings(text_layout="mixed"), CONFIG, ["a"], [data])) == 8


def test_the_demo_and_the_choice_of_a_checkpoint_say_texts_of_the_data():
    data = rows(*range(1, 20), language="german")
    for plan in (
        spoken_texts.plan(Settings(init_model_path="demo"), CONFIG, ["a"], [data]),
        spoken_texts.plan(Settings(), CONFIG, ["a"], [data], only_data=True),
    ):
        assert [one.text[0] for one in plan] == ["a"] * 4


def test_texts_are_told_apart_by_where_they_come_from():
    """One that is in both splits was trained on; without data all are unseen."""
    validation, train = (pa.table({"text": list(texts)}) for texts in ("hb", "tb"))
    assert spoken_texts.origins(list("thbxt"), validation, train) == ["train", "validation", "train", "test", "train"]
    assert spoken_texts.origins(["x"], validation.slice(0, 0), train) == ["test"]
    assert spoken_texts.origins(["x"], None, None) == ["test"]
