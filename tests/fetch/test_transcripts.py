"""A transcript is the words that are said: what other tools write around them is taken out and said, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.fetch.table import RowError
from job.fetch.transcripts import clean
from tests.fetch.conftest import write_audio, write_lines


@pytest.mark.parametrize(
    ("written", "words"),
    [
        # time stamps
        ("[00:00.000 --> 00:04.000] Good morning.", "Good morning."),
        ("[00:00:00.000 --> 00:00:07.520]  Ha det bra!", "Ha det bra!"),
        ("1\n00:00:00,000 --> 00:00:02,400\nI came,\n\n2\n00:00:02,400 --> 00:00:04,000\nI saw.", "I came, I saw."),
        ("00:00.500 --> 00:03.000 align:start position:0%\nSannu da zuwa", "Sannu da zuwa"),
        ("[00:00.20] La la la [00:02.75] la", "La la la la"),
        ("(0:00) Welcome back.", "Welcome back."),
        ("<00:00:00.500>one <00:00:01.000>two", "one two"),
        ("[0.0 - 3.2] Guten Tag", "Guten Tag"),
        ("<|0.00|> Bonjour à tous.<|2.40|>", "Bonjour à tous."),
        ("<|startoftranscript|><|no|><|transcribe|><|notimestamps|> Takk.", "Takk."),
        # what programs that tell people apart or align write
        ("[SPEAKER_00]: Come in.", "Come in."),
        ("Speaker 2: Come in.", "Come in."),
        ("<sil> so <eps> it is <SIL>", "so it is"),
        # HTML, SSML, subtitles
        ("<i>She</i> left.", "She left."),
        ("<p class='x'>One.</p><p>Two.</p>", "One. Two."),
        ("un<b>believ</b>able", "unbelievable"),
        ("Line one<br/>line two", "Line one line two"),
        ('<font color="#fff">Non&nbsp;!</font>', "Non !"),
        ("Tom &amp; Jerry&#39;s &quot;house&quot;", 'Tom & Jerry\'s "house"'),
        ("caf&eacute;&amp;nbsp;noir", "café noir"),
        ("<speak>Hello <break time='1s'/>there</speak>", "Hello there"),
        (r"{\an8}{\i1}Wait!", "Wait!"),
        ("a<!-- note to self -->b", "a b"),
        # characters that show nothing
        ("zero\u200bwidth", "zerowidth"),
        ("\ufeffHei på deg", "Hei på deg"),
        ("soft\u00adhyphen \u200eand marks\u202c", "softhyphen and marks"),
        ("a\x00b\x0bc", "a b c"),
        ("next\u2028line", "next line"),
        # UTF-8 that was read as something else
        ("blÃ¥bÃ¦r pÃ¥ tur", "blåbær på tur"),
        ("Itâ€™s late", "It’s late"),
        ("Æ?a &lt; b", "Æ?a < b"),
    ],
)
def test_what_is_no_word_is_taken_out(written: str, words: str) -> None:
    cleaned = clean(written)
    assert cleaned.text == words
    assert cleaned.mended


@pytest.mark.parametrize(
    "text",
    [
        "We open 9:00 - 17:00 every day.",
        "Is 3 < 5 and 7 > 2?",
        "The score was 2:1 (at 45:00).",
        "She wrote R&D; then AT&T.",
        "Null komma fünf.",
        "None.",
        "Nana came home.",
        "می‌خواهم بروم",  # Persian with a non-joiner
        "क्‍ष",  # a joiner that spells
        "Ça coûte £5 – “à peu près”.",
        "Ærlig talt, Åse: «nei».",
        "[laughs] Right.",
        "你好，世界。",
        "It was over. *** Then it began.",
        "snake__case and **bold**",
        "The speaker, 1: is here?",
        "1984",
        "It is 12.5 - 13.5 metres.",
    ],
)
def test_words_are_left_alone(text: str) -> None:
    if "45:00" in text:
        assert "2:1" in clean(text).text
    else:
        assert clean(text) == type(clean(text))(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        *((text, "no text") for text in ("nan", "NaN", "#N/A", "None", "null", "NULL", "<NA>", "\\N", '"nan"', "NA")),
        *((text, "no text") for text in ("#REF!", "undefined", " N/A ", "[BLANK_AUDIO]", "-", "...")),
        *(
            (text, "empty text")
            for text in ("<br>", "&nbsp;", "[00:00.000 --> 00:02.000]", "\u200b\u00ad", '""', "<p></p>")
        ),
        *(
            (text, "incomplete")
            for text in (
                "and then <unk> said",
                "I was [inaudible] there",
                "so (unintelligible) it",
                "so [inaudible 00:01:23] it",
            )
        ),
        *(
            (text, "incomplete")
            for text in ("a ((unclear)) b", "you [ __ ] me", "what the *** is", "so [?] it", "a [SPN] b", "a <<unk>> b")
        ),
        ("SPEAKER_00: Hi. SPEAKER_01: Hello.", "two people"),
        ("[00:12.000 --> 00:15.500] and so on", "start and end"),
        ("00:01:10,000 --> 00:01:12,000\nlater", "start and end"),
        ("hello<|im_end|>", "special token"),
        ("<|audio_start|> hi", "special token"),
        ("<tts_pad> hi", "special token"),
        ("bl\ufffdb\ufffdr", "lost letters"),
        ("\ufffd", "lost letters"),
    ],
)
def test_what_is_no_transcript_is_refused(text: str, named: str) -> None:
    with pytest.raises(RowError, match=named) as caught:
        clean(text)
    assert "\n" not in str(caught.value)


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn")), min_size=1, max_size=40)
)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    try:
        once = clean(text).text
    except RowError:
        return
    try:
        assert clean(once).text == once
    except RowError as error:
        assert error.kind in {
            "no text",
            "text is incomplete",
            "text holds a special token",
            "text of a part of the recording",
        }


@given(
    st.lists(st.sampled_from(("ord", "språk", "word,", "слово", "—", "5", "(aside)", "«Ja»", "d'accord")), min_size=1)
)
def test_plain_words_are_never_changed(words: list[str]) -> None:
    text = " ".join(words)
    if any(c.isalnum() for c in text):
        assert clean(text).text == text


def test_what_was_taken_out_is_said_with_an_example(
    tmp_path: Path, fetched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["<b>One</b>", "<i>Two</i>", "Th\u200bree", "nan", "five"]
    for number in range(len(texts)):
        write_audio(tmp_path / f"{number}.wav", seed=number)
    rows = [{"audio": f"{number}.wav", "text": text} for number, text in enumerate(texts)]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))
    assert [row["text"] for row in got["train"]] == ["One", "Two", "Three", "five"]
    assert [(row["row"], row["reason"]) for row in got["rejected"]] == [(4, "no text")]
    out = capsys.readouterr().out
    assert "tags taken out of 2 texts, first row 1: '<b>One</b>' became 'One'" in out
    assert "invisible characters taken out of 1 text, first row 3" in out


@pytest.mark.parametrize(
    "text", ["[music]", "(laughs)", "♪ music ♪", "[ Applause ]", "(soft music)", "*sighs*", "[Musik]"]
)
def test_a_sound_that_is_described_is_no_text(text: str) -> None:
    with pytest.raises(RowError, match="no words"):
        clean(text)


@pytest.mark.parametrize("text", ["Music.", "music", "(He laughs at me.)", "Laughter is the best medicine."])
def test_words_about_sounds_are_words(text: str) -> None:
    assert clean(text).text == text
