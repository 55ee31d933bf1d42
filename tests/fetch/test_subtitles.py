"""Subtitles as programs and people write them: no words are lost or lent to another time without a reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from job.core.errors import BadInput
from job.fetch import cue_files, sidecars, speaker_labels
from job.fetch.cue_files import Cue
from tests.fetch.test_cues import Spoken, clock, srt, talk


def cues_of(tmp_path: Path, text: str, name: str = "a.srt") -> list[tuple[float, str]]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return [(cue.start, cue.text) for cue in cue_files.read(tmp_path / name)]


def test_a_blank_line_inside_a_cue_loses_no_words(tmp_path: Path) -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\nThank\n\nyou.\n\n2\n00:00:03,000 --> 00:00:04,000\nNot now.\n"
    assert cues_of(tmp_path, text) == [(1.0, "Thank\nyou."), (3.0, "Not now.")]


@pytest.mark.parametrize(
    "times", ["00:00:03,000 -- 00:00:04,000", "0:0:O3 --> 00:00:04,000", "00:00:03:12 --> 00:00:04:00"]
)
@pytest.mark.parametrize("gap", ["\n\n", "\n"])
def test_times_that_cannot_be_read_leave_their_own_cue_out_and_no_other(
    tmp_path: Path, fetched: Any, times: str, gap: str
) -> None:
    said = talk(tmp_path / "in" / "talk.wav", count=3)
    cues = srt(said).strip().split("\n\n")
    cues[1] = f"2\n{times}\n{said[1][2]}"
    (tmp_path / "in" / "talk.srt").write_text(gap.join(cues), encoding="utf-8")
    got = fetched(DATA_DIR=tmp_path / "in")
    assert [row["text"] for row in got["train"]] == [said[0][2], said[2][2]]
    (rejected,) = got["rejected"]
    assert rejected["reason"] == "cue without times"
    assert "talk.srt cue 2" in rejected["detail"] and times in rejected["detail"]


def test_names_and_notes_of_webvtt_are_no_words(tmp_path: Path) -> None:
    text = (
        "WEBVTT - a title\nKind: captions\n\nSTYLE\n::cue { color: red }\n\nNOTE Confidence: 0.9\n\n"
        "intro\n00:01.000 --> 00:02.000\n\n8c1b-4\n00:03.000 --> 00:04.000 line:0\n<i>Hello.</i>\n\nNOTE\nby hand\n"
    )
    assert cues_of(tmp_path, text, "a.vtt") == [(1.0, ""), (3.0, "<i>Hello.</i>")]


def test_a_number_is_a_word_where_cues_have_none(tmp_path: Path) -> None:
    text = "00:00:01,000 --> 00:00:02,000\nIt was\n1984\n00:00:03,000 --> 00:00:04,000\nYes.\n"
    assert cues_of(tmp_path, text) == [(1.0, "It was\n1984"), (3.0, "Yes.")]


def test_hours_of_a_shop_are_words(tmp_path: Path) -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\nWe open\n9:00 - 17:00\n\n2\n00:00:03,000 --> 00:00:04,000\nYes.\n"
    assert cues_of(tmp_path, text) == [(1.0, "We open\n9:00 - 17:00"), (3.0, "Yes.")]


def test_what_is_said_three_times_is_three_rows(tmp_path: Path, fetched: Any) -> None:
    said = [(start, end, "Yes.") for start, end, _ in talk(tmp_path / "in" / "talk.wav", count=3)]
    (tmp_path / "in" / "talk.srt").write_text(srt(said), encoding="utf-8")
    assert [row["text"] for row in fetched(DATA_DIR=tmp_path / "in")["train"]] == ["Yes."] * 3


@pytest.mark.parametrize("labels", [("ANNA: ", "BO: "), ("[SPEAKER_01]: ", "[SPEAKER_00] "), ("- Anna Berg: ", "Bo: ")])
def test_names_of_who_speaks_are_speakers_and_no_words(tmp_path: Path, fetched: Any, labels: tuple[str, str]) -> None:
    said = talk(tmp_path / "in" / "talk.wav")
    shown = [(a, b, labels[n % 2] + text if n < 4 else text) for n, (a, b, text) in enumerate(said)]
    (tmp_path / "in" / "talk.srt").write_text(srt(shown), encoding="utf-8")
    rows = fetched(DATA_DIR=tmp_path / "in")["train"]
    assert [row["text"] for row in rows] == [text for *_, text in said]
    first, second = (label.strip("-[]: ").lower() for label in labels)
    assert [row["speaker"] for row in rows] == [first, second, first, second, second, second]


def test_two_who_are_named_in_one_cue_are_told() -> None:
    cues = [Cue(1, 0, 1, "ANNA: Hi.\nBO: Hello."), Cue(2, 1, 2, "BO: Yes."), Cue(3, 2, 3, "No.\nANNA: What?")]
    found, labels = speaker_labels.told_apart(cues)
    assert [cue_files.SEVERAL in (cue.speaker or "") for cue in found] == [True, False, True]
    assert labels == {"ANNA": 2, "BO": 2}


@pytest.mark.parametrize(
    "text", ["Note: it rains.", "He said: go home.", "At 9:30 we left.", "See http://example.org.", "ONCE: a label."]
)
def test_a_colon_in_a_sentence_is_no_speaker(text: str) -> None:
    cues = [Cue(1, 0, 1, "It was late."), Cue(2, 1, 2, text), Cue(3, 2, 3, "And dark."), Cue(4, 3, 4, "We slept.")]
    found, labels = speaker_labels.told_apart(cues)
    assert found == cues and not labels


def test_subtitles_of_another_cut_are_not_used(tmp_path: Path, fetched: Any) -> None:
    """Times that are seconds off would give words to the wrong sound; it shows where they go on after the end."""
    said: list[Spoken] = talk(tmp_path / "in" / "talk.wav")
    (tmp_path / "in" / "talk.srt").write_text(srt([(a + 5, b + 5, t) for a, b, t in said]), encoding="utf-8")
    with pytest.raises(BadInput, match=r"2 of 6 cues of talk\.srt end after talk\.wav does \(11\.0 s\)"):
        fetched(DATA_DIR=tmp_path / "in")


def test_times_in_any_usual_form_are_read(tmp_path: Path) -> None:
    assert cues_of(tmp_path, "1\n0:0:1,5 -> 0:0:2,25\nHello.\n") == [(1.5, "Hello.")]
    assert cues_of(tmp_path, f"1\n{clock(3661.5, '.')}-->{clock(3662)}\nHello.\n") == [(3661.5, "Hello.")]


@pytest.mark.parametrize(
    "name", ["talk.ttml", "talk.otr", "talk.docx", "talk.en.sdh.srt", "talk_en.vtt", "talk (1).srt", "talk.mp4.srt"]
)
def test_a_transcript_that_is_not_read_is_asked_about_and_the_recording_not_transcribed(
    tmp_path: Path, fetched: Any, name: str
) -> None:
    said = talk(tmp_path / "in" / "talk.wav", count=2)
    (tmp_path / "in" / name).write_text(srt(said), encoding="utf-8")
    with pytest.raises(BadInput, match=f"{re.escape(name)} is not (read|used): .*TRANSCRIBE=always transcribes it"):
        fetched(DATA_DIR=tmp_path / "in", TRANSCRIBE="auto")


def test_subtitles_of_another_recording_are_not_asked_about(tmp_path: Path) -> None:
    names = [tmp_path / "talk.wav", tmp_path / "talk_en.wav"]
    beside = sidecars.Sidecars(tmp_path, names, [tmp_path / "talk_en.srt", tmp_path / "talk_7.srt"])
    assert not beside.has_unread(names[0])


@pytest.mark.parametrize("name", ["talk.es-419.vtt", "talk.zh-Hant-TW.vtt", "talk.en-orig.vtt"])
def test_languages_in_names_of_subtitles(tmp_path: Path, fetched: Any, name: str) -> None:
    said = talk(tmp_path / "in" / "talk.wav", count=2)
    (tmp_path / "in" / name).write_text("WEBVTT\n\n" + srt(said).replace(",", "."), encoding="utf-8")
    assert len(fetched(DATA_DIR=tmp_path / "in")["train"]) == 2


def _seconds(said: list[Spoken]) -> str:
    return json.dumps({"segments": [{"start": str(a), "end": str(b), "text": t} for a, b, t in said]})


def _transformers(said: list[Spoken]) -> str:
    return json.dumps({"text": "", "chunks": [{"timestamp": [a, b], "text": f" {t}"} for a, b, t in said]})


def _whisper_cpp(said: list[Spoken]) -> str:
    offsets = [{"offsets": {"from": round(1000 * a), "to": round(1000 * b)}, "text": t} for a, b, t in said]
    return json.dumps({"systeminfo": "", "result": {"language": "en"}, "transcription": offsets})


@pytest.mark.parametrize("form", [_seconds, _transformers, _whisper_cpp])
def test_json_of_other_programs_that_run_whisper(tmp_path: Path, fetched: Any, form: Any) -> None:
    said = talk(tmp_path / "in" / "talk.wav", count=3)
    (tmp_path / "in" / "talk.json").write_text(form(said), encoding="utf-8")
    rows = fetched(DATA_DIR=tmp_path / "in")["train"]
    assert [row["text"] for row in rows] == [text for *_, text in said]
    assert all(a - 0.16 <= row["start"] <= a + 0.01 for row, (a, _, _) in zip(rows, said, strict=True))


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("Start\tEnd\tText\n0.6\t1.2\tHello.\n1.8\t2.5\tThank you.\n", "but for the line 'Start"),
        ("0.6\t1.2\tHello.\nThank you.\n3.1\t3.9\tNot now.\n", "but for the line 'Thank you.'"),
        ("00:00:00,600\t00:00:01,183\tHello.\n00:00:01,8\t00:00:02,5\tThank you.\n", "2 lines of talk.txt begin"),
        ("0:00\nhello\n0:02\nthank you\n", "2 lines of talk.txt begin with a time"),
        ("[0:00:01] Hello.\n\n[0:00:02] Thank you.\n", "talk.txt"),
    ],
)
def test_a_text_with_times_in_it_is_not_read_out(tmp_path: Path, fetched: Any, text: str, detail: str) -> None:
    talk(tmp_path / "in" / "talk.wav", count=2)
    (tmp_path / "in" / "talk.txt").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=f"text has times: .*{re.escape(detail)}"):
        fetched(DATA_DIR=tmp_path / "in")
