"""A language has one name, however people write it; a misspelling is asked about; a new one is new, and said."""

from __future__ import annotations

import json
import re

import langcodes
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from job.demo.base import LANGUAGES
from job.text.languages import Language, Languages, UnclearLanguage, iso_code
from tests.support.commands import run_job
from tests.test_bad_input import GOOD, data, refused, variables  # noqa: F401

BASE = Languages(LANGUAGES)
CODES = {"zh", "en", "de", "it", "pt", "es", "ja", "ko", "fr", "ru"}


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_way_to_write_a_known_language_is_its_row(code: str) -> None:
    """Two and three letters, either case, with a country, in English, in itself: never a row learnt from scratch."""
    one = langcodes.Language.get(code)
    ways = [code, code.upper(), one.to_alpha3(), one.to_alpha3(variant="B"), one.display_name(), one.autonym()]
    ways += [f"{code}-{one.maximize().territory}", f"{code}_{one.maximize().territory}.UTF-8", one.maximize().to_tag()]
    ways += [one.display_name("fr"), one.display_name("sw"), f"{one.display_name()} language", f"  {ways[4]}\n"]
    keys = {way: BASE.find(way).key for way in ways}
    assert set(keys.values()) == {one.display_name().lower()}, keys


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("jp", "japanese"),
        ("CN", "chinese"),
        ("Japan", "japanese"),
        ("cmn-Hant-TW", "chinese"),
        ("Portuguese (Brazil)", "portuguese"),
        ("Spanish - Mexican", "spanish"),
        ("Australian English", "english"),
        ("Русский", "russian"),
        ("francais", "french"),
        ("Beijing Dialect", "beijing dialect"),
    ],
)
def test_usual_ways_that_are_neither_names_nor_codes(written: str, key: str) -> None:
    """Codes and names of countries, variants before and after the name, accents left out."""
    assert BASE.find(written).key == key


def test_a_key_of_the_base_wins() -> None:
    """A dialect's row, or one with another meaning elsewhere, is the base's own."""
    base = Languages({"beijing_dialect": 1, "my": 2, "englsh": 3, "chinese": 4})
    assert [base.find(n).key for n in ("Beijing Dialect", "MY", "Englsh", "zh")] == [
        *("beijing_dialect", "my", "englsh", "chinese")
    ]
    assert all(base.find(name).known for name in ("beijing-dialect", "my", "englsh"))


BOKMAL = ("nb", "nob", "nb_NO", "bokmål", "bokmal", "Norwegian Bokmål", "norwegian_bokmal", "Norwegian (Bokmål)")


def test_bokmal_is_one_new_language_or_the_bases_norwegian() -> None:
    """Neither four rows for one language, nor a new row beside the base's."""
    assert {BASE.find(name).key for name in BOKMAL} == {"norwegian bokmål"}
    assert {BASE.find(name).key for name in ("nn", "nno", "nynorsk", "Norwegian Nynorsk")} == {"norwegian nynorsk"}
    knows = Languages([*LANGUAGES, "norwegian"])
    assert {knows.find(name).key for name in (*BOKMAL, "nn", "nynorsk", "norsk", "no")} == {"norwegian"}
    mixed = Languages(LANGUAGES, spoken=("Norwegian", "nb"))
    assert {mixed.find(name).key for name in (*BOKMAL, "no")} == {"norwegian"}
    assert mixed.find("nno").key == "norwegian nynorsk"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Englsh", "English"),
        ("Norwegain", "Norwegian"),
        ("Klingonese", "Klingon"),
        ("Portugeese", "Portuguese"),
        ("Germna", "German"),
        ("Swahilli", "Swahili"),
        ("Deutsh", "German"),
        ("Icelanic", "Icelandic"),
        ("brazilian", "Portuguese"),
        ("English or so", "English"),
        ("vn", "Vietnamese"),
    ],
)
def test_what_looks_like_a_misspelling_is_asked_about(written: str, meant: str) -> None:
    with pytest.raises(UnclearLanguage, match=rf"'{re.escape(written)}' .*did you mean {meant}"):
        BASE.find(written)


@pytest.mark.parametrize("written", ["Ga", "Mon"])
def test_a_name_that_is_another_ones_code_is_asked_about(written: str) -> None:
    with pytest.raises(UnclearLanguage, match=f"{written}.*write"):
        BASE.find(written)
    assert BASE.find(written.lower()).code in ("ga", "mn")


@pytest.mark.parametrize("written", ["My Own Tongue", "No Such Language", "Zorgish", "Valdorian", "en passant talk"])
def test_a_name_like_no_other_is_a_new_language_without_a_code(written: str) -> None:
    """ "my" is the code of Burmese and "no" that of Norwegian, and a card that says so is wrong."""
    assert BASE.find(written) == Language(written.lower(), None, written, False)
    assert iso_code(written) is None


def test_one_can_insist() -> None:
    """`new:` takes the name as it is, without a code; nothing after it, or a language of the base, is a mistake."""
    assert BASE.find("new:Englsh") == Language("englsh", None, "Englsh", False)
    assert BASE.find("New: My").key == "my" and BASE.find("new:my").code is None
    for wrong in ("new:", "new:auto", "new:English"):
        with pytest.raises(UnclearLanguage, match="new"):
            BASE.find(wrong)


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(LANGUAGES)), st.data())
def test_one_wrong_letter_never_makes_a_new_language(name: str, chosen: st.DataObject) -> None:
    """Any dropped, doubled or changed letter of any language of the base: asked about, or another real language."""
    at = chosen.draw(st.integers(0, len(name) - 1))
    letter = chosen.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz"))
    wrong = chosen.draw(st.sampled_from([name[:at] + name[at + 1 :], name[:at] + letter + name[at:]]))
    try:
        found = BASE.find(wrong)
    except UnclearLanguage as question:
        assert "did you mean" in str(question)
    else:
        assert found.known or found.code


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_found_or_asked_about(text: str) -> None:
    """No name of a column's value ends in a traceback, and a code is one that the Hub takes."""
    try:
        found = BASE.find(text)
    except UnclearLanguage as question:
        assert str(question)
        return
    assert found.key == found.key.lower() and found.key
    assert found.code is None or re.fullmatch("[a-z]{2,3}", found.code)


def doctor(capsys, variables, path, **more):  # noqa: F811
    return run_job(capsys, ["doctor"], {**variables, "TRAIN_JSONL": path, **more})


@pytest.mark.parametrize("name", ["LANGUAGE", "LANGUAGE_INIT"])
@pytest.mark.parametrize(("value", "meant"), [("Itallian", "Italian"), ("Russain", "Russian")])
def test_doctor_asks_about_a_misspelled_variable(capsys, variables, data, name, value, meant):  # noqa: F811
    """Exit 2 in minute one, with the name that was meant and the way to insist."""
    refused(doctor(capsys, variables, data(GOOD), **{name: value}), 2, f"{name}={value}", meant, f"new:{value}")


def test_doctor_says_what_a_language_is_taken_for(capsys, variables, data):  # noqa: F811
    """A new language is not learnt in silence; a code is said in words; a known name needs no words."""
    path = data(GOOD)
    expected = {
        "Valdorian": "added as the new language valdorian",
        "ewe": "added as the new language ewe (ISO 639 code ee",
        "deu": "LANGUAGE=deu is german",
        "new:Englsh": "added as the new language englsh",
    }
    for value, said in expected.items():
        result = doctor(capsys, variables, path, LANGUAGE=value)
        assert result.code == 0 and said in result.out, result
    assert "LANGUAGE" not in doctor(capsys, variables, path, LANGUAGE="German").out


def test_a_new_language_may_start_from_one_by_any_name(capsys, variables, data):  # noqa: F811
    """LANGUAGE_INIT takes codes too; one that the base does not know is refused with those that it does."""
    path = data(GOOD)
    assert doctor(capsys, variables, path, LANGUAGE_INIT="deu").code == 0
    refused(doctor(capsys, variables, path, LANGUAGE_INIT="Hausa"), 2, "LANGUAGE_INIT=Hausa", "german")


def test_rows_are_read_by_the_same_names(capsys, variables, data, tmp_path):  # noqa: F811
    """Codes and names of one language are one; a misspelled row is left out by name; what is new gets no wrong code."""
    languages = ["eng", "English (UK)", "My Own Tongue"]
    rows = [{**row, "language": name} for row, name in zip(GOOD, languages, strict=True)]
    rows += [{**GOOD[0], "text": "Four.", "language": "Engilsh"}]
    values = {**variables, "TRAIN_JSONL": data(rows), "QUALITY_GATE": "off"}
    result = run_job(capsys, ["run", "--until", "prepare"], values)
    assert result.code == 0, result.err
    assert "row 4" in result.err and "did you mean English" in result.err
    assert "language 'eng' is english" in result.out and "does not know my own tongue" in result.out
    summary = json.loads((tmp_path / "work/data/prepared/summary.json").read_text())
    assert {name: (entry["known"], entry["code"]) for name, entry in summary["languages"].items()} == {
        "english": (True, "en"),
        "my own tongue": (False, None),
    }


def test_a_language_that_only_a_new_one_is_called_keeps_no_code(capsys, variables, data, tmp_path):  # noqa: F811
    """`new:my` is not Burmese, on the card either."""
    from job.config import settings
    from job.model import card_facts

    values = {**variables, "TRAIN_JSONL": data(GOOD), "QUALITY_GATE": "off", "LANGUAGE": "new:my"}
    assert run_job(capsys, ["run", "--until", "prepare"], values).code == 0
    loaded = settings.load({name: str(value) for name, value in values.items()})
    assert card_facts.language_codes(loaded) == [] and card_facts.language_names(loaded) == ["my"]


def test_nothing_but_misspelled_rows_is_refused(capsys, variables, data):  # noqa: F811
    rows = [{**row, "language": "Spansh"} for row in GOOD]
    refused(run_job(capsys, ["run"], {**variables, "TRAIN_JSONL": data(rows)}), 2, "row 1", "Spansh", "Spanish")


def test_a_column_that_holds_no_languages_is_refused(capsys, variables, data):  # noqa: F811
    """A column of sentences would be a language each."""
    rows = [{**GOOD[0], "text": f"Text {n}.", "language": f"Zorg {n} qua"} for n in range(120)]
    refused(
        run_job(capsys, ["run", "--until", "fetch"], {**variables, "TRAIN_JSONL": data(rows)}), 2, "LANGUAGE_COLUMN"
    )
