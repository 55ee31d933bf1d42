"""Texts in words: what is read out, what is left, and that nothing else changes."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from job.config.settings import Settings
from job.evaluate.spoken_texts import utterance
from job.model.loading import ModelConfig
from job.normalize import Normalizer
from job.normalize.spoken_forms import LANGUAGES, LEFT_ALONE
from tests.fetch.conftest import fetched as fetched
from tests.fetch.conftest import write_audio, write_lines

AUTO = Normalizer("auto")

READ = [
    ("en", "I paid $5.50 for 3 apples.", "I paid five dollars fifty for three apples."),
    ("en", "In 1984, 50% of 21 km.", "In nineteen eighty-four, fifty percent of twenty-one kilometers."),
    ("en", "All (or 1,500) etc.", "All (or one thousand, five hundred) et cetera."),
    ("en", "The 3rd, the 12th and 3.14; -5", "The third, the twelfth and three point one four; minus five"),
    ("English", "Mr. X saw 1 cat.", "Mister X saw one cat."),
    ("de", "21 Katzen, z.B. 1984.", "einundzwanzig Katzen, zum Beispiel neunzehnhundertvierundachtzig."),
    ("de", "3,14 und 1.200 Leute", "drei Komma eins vier und eintausendzweihundert Leute"),
    ("de-DE", "2,50 € und 5 km", "zwei Euro fünfzig und fünf Kilometer"),
    ("fr", "71 ans, 1 000 euros et 50 %", "soixante et onze ans, mille euros et cinquante pour cent"),
    ("es", "3,5 kg y 50 %", "tres coma cinco kilos y cincuenta por ciento"),
    ("Norwegian", "21 kg i 1984", "tjueen kilo i nitten hundre og åttifire"),
    ("nb", "f.eks. 1 000 kr", "for eksempel en tusen kroner"),
    ("nb", "75 %", "syttifem prosent"),
    ("da", "75 km i 1984", "femoghalvfjerds kilometer i nitten hundrede fireogfirs"),
    ("sv", "25 kr år 1984", "tjugofem kronor år nittonhundraåttiofyra"),
    ("nl", "25 % en de 3e", "vijfentwintig procent en de derde"),
    ("pl", "17 osób i 3,5", "siedemnaście osób i trzy przecinek pięć"),
    ("ru", "15 человек и т.д.", "пятнадцать человек и так далее."),
    ("ar", "كان هناك ١٥ كتابا و ٥٠٪", "كان هناك خمسة عشر كتابا و خمسون بالمئة"),
    ("tr", "%50 ve 25 km", "yüzde elli ve yirmibeş kilometre"),
    ("it", "50 % e 3 km", "cinquanta per cento e tre chilometri"),
    ("pt", "15 € e 50 %", "quinze euros e cinquenta por cento"),
    ("en", "$1 million, or $2.5 billion.", "one million dollars, or two point five billion dollars."),
    ("en", "$5 milk", "five dollars milk"),
    ("en", "It was $ 5 (or £ 5.50).", "It was five dollars (or five pounds fifty)."),
    ("en", "May 3rd, 3 maybe, in May 2024", "May third, three maybe, in May two thousand and twenty-four"),
    ("nl", "€ 5 of €5", "vijf euro of vijf euro"),
    ("nb", "Det er kr 5, nei kr. 9!", "Det er fem kroner, nei ni kroner!"),
    ("fr", "le 3 mai", "le trois mai"),
    ("en", "Well <<noise>> yes ((laughs))", "Well yes"),
    ("en", "Well [laughter] yes (applause), so *coughs* be it.", "Well yes, so be it."),
    ("Auto", "So <hesitation> it is", "So it is"),
]

LEFT = [
    ("en", "A320", "mixed"),
    ("en", "1/2", "mixed"),
    ("en", "v2.0.1", "mixed"),
    ("en", "1990s", "mixed"),
    ("en", "14:30", "time"),
    ("en", "03/05/2024", "date"),
    ("de", "3. Mai", "date"),
    ("nb", "3. mai", "date"),
    ("en", "3 May", "date"),
    ("en", "Dec. 24", "date"),
    ("sv", "3 maj", "date"),
    ("pl", "3 maja", "date"),
    ("ru", "5 мая,", "date"),
    ("es", "$5 millones", "mixed"),
    ("en", "007", "zeros"),
    ("en", "0612345678", "zeros"),
    ("nb", "22 34 56 78", "neighbours"),
    ("en", "4006381333931", "long"),
    ("de", "3.14", "separators"),
    ("en", "1,5", "separators"),
    ("de", "1 Hund", "inflected"),
    ("es", "21 casas", "inflected"),
    ("ru", "22 человека", "inflected"),
    ("pl", "w 1984 roku", "inflected"),
]


@pytest.mark.parametrize(("language", "text", "said"), READ)
def test_what_is_written_in_signs_is_read_as_it_is_said(language: str, text: str, said: str) -> None:
    assert AUTO.read(text, language).text == said


@pytest.mark.parametrize(("language", "text", "why"), LEFT)
def test_what_may_be_read_in_several_ways_is_left(language: str, text: str, why: str) -> None:
    found = AUTO.read(text, language)
    assert (found.text, {reason for _, reason in found.left}) == (text, {why})


def test_the_table_of_what_is_left_is_complete() -> None:
    assert {why for _, _, why in LEFT} == {name for name, _, _ in LEFT_ALONE}


@pytest.mark.parametrize(
    ("language", "text"),
    [("hi", "उसने १५ किताबें"), ("ja", "3月に15人"), ("zh", "我有3本书"), ("Auto", "has 5"), ("new:Xx", "5")],
)
def test_languages_without_rules_are_left_and_counted(language: str, text: str) -> None:
    found = AUTO.read(text, language)
    assert (found.text, found.done, found.unread) == (text, (), True)
    assert not AUTO.read("क ख", language).unread


@pytest.mark.parametrize(
    "text", ["(laughter)", "[music] *sighs*", "He (the king) left", "2 * 3 * 4", "a <b> c", "*very* good"]
)
def test_a_text_keeps_what_may_be_words(text: str) -> None:
    assert AUTO.read(text, "Auto").text == text


WORDS = st.text(st.characters(categories=("L", "M", "Zs", "P"), exclude_characters="[(<*."), max_size=40)
CODES = st.sampled_from(sorted(LANGUAGES))
SHORT = ["1", "2", "5", "21", "1984", "1,234", "1.234", "3,5", "3.14", "1/2", "A320", "5%", "%", "€", "$5", "km", "kr."]
SHORT += [
    "kr",
    "3rd",
    "3.",
    "mai",
    "(5)",
    "٥",
    "٪",
    "etc.",
    "-5",
    "007",
    "12:30",
    "The",
    "(laughter)",
    "\u00a0",
    "z.B.",
]
ANY = st.lists(st.sampled_from(SHORT) | st.text("0123456789., %€$()-", max_size=8), max_size=8).map(" ".join)


@given(text=WORDS.map(lambda text: unicodedata.normalize("NFC", text)), code=CODES)
def test_letters_alone_never_change(text: str, code: str) -> None:
    assert AUTO.read(text, code).text == text


@given(text=ANY, code=CODES)
@example(text="1,234 € 0", code="da")  # whose sign it is cannot be told
@example(text="12.345 kr 7,50", code="no")
def test_reading_twice_is_reading_once_and_every_digit_left_has_a_reason(text: str, code: str) -> None:
    found = AUTO.read(text, code)
    assert AUTO.read(found.text, code).text == found.text
    digits = sum(map(str.isdecimal, found.text))
    assert digits == sum(sum(map(str.isdecimal, word)) for word, _ in found.left)
    assert {why for _, why in found.left} <= {name for name, _, _ in LEFT_ALONE}


@pytest.mark.parametrize("text", ["1² of them", "am 3². Mai", "②⑦ times", "the ³ of ¹0"])
@pytest.mark.parametrize("language", ["english", "german"])
def test_raised_digits_are_no_numbers(language: str, text: str) -> None:
    """Python calls them digits, and int() refuses them: such a row must not end the run."""
    assert AUTO.read(text, language).text == text


@given(text=ANY)
def test_none_changes_nothing(text: str) -> None:
    assert Normalizer("none").read(text, "en").text == text


def test_the_manifest_keeps_what_was_written_and_the_log_says_what_was_done(
    tmp_path: Path, fetched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "a.wav")
    write_audio(tmp_path / "b.wav", seed=1)
    write_audio(tmp_path / "c.wav", seed=2)
    rows = [
        {"audio": "a.wav", "text": "I have 5 cats", "language": "en"},
        {"audio": "b.wav", "text": "No number", "language": "en"},
        {"audio": "c.wav", "text": "私は5匹", "language": "ja"},
    ]
    path = write_lines(tmp_path / "t.jsonl", rows)
    got = fetched(TRAIN_JSONL=path, TEXT_NORMALIZER="auto")["train"]
    assert [(row["text"], row.get("raw_text")) for row in got] == [
        ("I have five cats", "I have 5 cats"),
        ("No number", None),
        ("私は5匹", None),
    ]
    said = capsys.readouterr().out
    assert "numbers read out in 1 text: 'I have 5 cats' became 'I have five cats'" in said
    assert "TEXT_NORMALIZER has no rules for the language ja: digits are left in 1 text" in said
    assert all("raw_text" not in row for row in fetched(TRAIN_JSONL=path)["train"])


def test_a_changed_setting_redoes_the_stages_and_test_texts_are_read_likewise() -> None:
    auto, none = (Settings(text_normalizer=value) for value in ("auto", "none"))
    assert json.dumps(auto.fingerprint_values(), default=str) != json.dumps(none.fingerprint_values(), default=str)
    config = ModelConfig({"talker_config": {"codec_language_id": {"english": 1}}})
    assert utterance(auto, config, "I have 5", "x", "english").text == "I have five"
    assert utterance(none, config, "I have 5", "x", "english").text == "I have 5"
