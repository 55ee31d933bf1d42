"""How long a text is when it is said, in any script."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.text.letters import letters, script

#: The same sentence (Universal Declaration of Human Rights, article 1) in languages of many scripts.
FREE_AND_EQUAL = {
    "english": "All human beings are born free and equal in dignity and rights.",
    "german": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "french": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "spanish": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "russian": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "chinese": "人人生而自由,在尊严和权利上一律平等。",
    "japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "arabic": "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "hebrew": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "georgian": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
}


@pytest.mark.parametrize("language", FREE_AND_EQUAL)
def test_the_same_sentence_is_about_as_long_in_every_script(language: str) -> None:
    """Mixed languages in one corpus are measured alike: within a factor of 2, which is the translators'."""
    ratio = letters(FREE_AND_EQUAL[language]) / letters(FREE_AND_EQUAL["english"])
    assert 1 / 2 < ratio < 2, ratio


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("1984", "nineteen eighty-four"),
        ("40 %", "forty percent"),
        ("$20", "twenty dollars"),
        ("１９８４", "nineteen eighty-four"),
        ("٢٥", "twenty-five"),
        ("at 7:30", "at seven thirty"),
    ],
)
def test_figures_and_signs_are_as_long_as_their_words(text: str, spoken: str) -> None:
    assert 1 / 1.6 < letters(text) / letters(spoken) < 1.6


@given(text=st.text(max_size=80))
def test_any_text_has_a_length_whatever_its_form_and_its_punctuation(text: str) -> None:
    length = letters(text)
    assert length >= 0
    assert letters(unicodedata.normalize("NFD", text)) == pytest.approx(length)
    assert letters(f" “{text}” … (—) ") == pytest.approx(letters(f" {text} "))


@given(text=st.text(alphabet=st.characters(categories=["L"]), min_size=1, max_size=60))
def test_twice_the_text_is_twice_as_long(text: str) -> None:
    assert letters(f"{text} {text}") == pytest.approx(2 * letters(text))


def test_nothing_that_is_said_has_no_length() -> None:
    assert letters("") == letters(" ... — !? 🙂 ") == letters("\u064b\u0301") == 0


def test_half_width_letters_are_letters() -> None:
    assert letters("ﾎﾃﾙ") == letters("ホテル") and letters("ＡＢＣ") == letters("abc") == 3


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Straße 12", "Latin"),
        ("Привет, world и мир", "Cyrillic"),
        ("東京へ行く", "Japanese"),
        ("东京", "Han"),
        ("ﾎﾃﾙ", "Japanese"),
        ("안녕 hi", "Hangul"),
        ("123 ?!", ""),
        ("", ""),
    ],
)
def test_the_script_of_a_text_is_that_of_most_letters(text: str, name: str) -> None:
    assert script(text) == name
