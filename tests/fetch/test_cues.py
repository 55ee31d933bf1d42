"""A long recording beside a file that says what is said when becomes rows, a sentence each; no word is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from job.core.errors import BadInput
from job.demo import manifest
from job.fetch import cue_files, cues
from job.fetch.table import RowError

Spoken = tuple[float, float, str]


def talk(path: Path, pause: float = 0.6, count: int = 6) -> list[Spoken]:
    """The embedded clips, one after the other with pauses between them; what is said when."""
    rows = manifest()[:count]
    waves = [soundfile.read(row["audio"], dtype="float32")[0] for row in rows]
    rate = soundfile.info(rows[0]["audio"]).samplerate
    silence = np.zeros(round(pause * rate), np.float32)
    said, parts, at = [], [silence], pause
    for row, wave in zip(rows, waves, strict=True):
        said.append((at, at + len(wave) / rate, row["text"]))
        parts += [wave, silence]
        at = said[-1][1] + pause
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(parts), rate)
    return said


def clock(seconds: float, mark: str = ",") -> str:
    whole = round(seconds * 1000)
    return f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02}{mark}{whole % 1000:03}"


def srt(said: list[Spoken]) -> str:
    return "\n".join(f"{n}\n{clock(a)} --> {clock(b)}\n{text}\n" for n, (a, b, text) in enumerate(said, start=1))


def vtt(said: list[Spoken]) -> str:
    return "WEBVTT\n\n" + "\n".join(f"{clock(a, '.')} --> {clock(b, '.')} align:start\n{t}\n" for a, b, t in said)


def labels(said: list[Spoken]) -> str:
    return "".join(f"{a:.6f}\t{b:.6f}\t{text}\n" for a, b, text in said)


def whisper(said: list[Spoken]) -> str:
    segments = [{"id": n, "start": a, "end": b, "text": f" {t}"} for n, (a, b, t) in enumerate(said)]
    return json.dumps({"text": " ".join(t for *_, t in said), "segments": segments, "language": "en"})


def textgrid(said: list[Spoken]) -> str:
    """Praat's long form, with the intervals between that hold nothing, and a tier of phones before."""
    rows, at = [], 0.0
    for start, end, text in said:
        rows += [(at, start, ""), (start, end, text.replace('"', '""'))]
        at = end
    intervals = "".join(
        f'        intervals [{n}]:\n            xmin = {a}\n            xmax = {b}\n            text = "{t}"\n'
        for n, (a, b, t) in enumerate(rows, start=1)
    )
    head = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = {at}\ntiers? <exists>\nsize = 2\n'
    phones = 'item []:\n    item [1]:\n        class = "IntervalTier"\n        name = "phones"\n        xmin = 0\n'
    phones += f"        xmax = {at}\n        intervals: size = 1\n        intervals [1]:\n            xmin = 0\n"
    phones += f'            xmax = {at}\n            text = "a"\n'
    said_ = '    item [2]:\n        class = "IntervalTier"\n        name = "sentences"\n        xmin = 0\n'
    return head + phones + said_ + f"        xmax = {at}\n        intervals: size = {len(rows)}\n" + intervals


FORMS: dict[str, Callable[[list[Spoken]], str]] = {
    "talk.srt": srt, "talk.vtt": vtt, "talk.en.vtt": vtt, "talk.wav.srt": srt,
    "talk.TextGrid": textgrid, "talk.json": whisper, "talk.txt": labels,
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_sentence_of_a_long_recording_is_a_row(tmp_path: Path, fetched: Any, name: str) -> None:
    said = talk(tmp_path / "in" / "talk.wav")
    (tmp_path / "in" / name).write_text(FORMS[name](said), encoding="utf-8")
    got = fetched(DATA_DIR=tmp_path / "in")
    assert [row["text"] for row in got["train"]] == [text for *_, text in said]
    assert got["rejected"] == []
    for row, (start, end, _) in zip(got["train"], said, strict=True):
        assert start - 0.151 <= row["start"] <= start and end <= row["end"] <= end + 0.151, "no word is cut"


def test_a_sentence_over_several_cues_is_one_row(tmp_path: Path, fetched: Any) -> None:
    said = talk(tmp_path / "in" / "talk.wav", count=2)
    (a, b, _), (c, d, last) = said
    halves = [(a, (a + b) / 2, "This goes on"), ((a + b) / 2 + 0.05, b, "in another cue."), (c, d, last)]
    (tmp_path / "in" / "talk.srt").write_text(srt(halves), encoding="utf-8")
    rows = fetched(DATA_DIR=tmp_path / "in")["train"]
    assert [row["text"] for row in rows] == ["This goes on in another cue.", last]
    assert rows[0]["start"] <= a and rows[0]["end"] >= b


def test_an_edge_in_speech_moves_into_the_pause_nearby(tmp_path: Path, fetched: Any, capsys: Any) -> None:
    """Subtitles that are a fifth of a second late would cut the first word of each sentence."""
    said = talk(tmp_path / "in" / "talk.wav", count=6)[3:]
    late = [(start + 0.3, end + 0.2, text) for start, end, text in said]
    (tmp_path / "in" / "talk.srt").write_text(srt(late), encoding="utf-8")
    rows = fetched(DATA_DIR=tmp_path / "in")["train"]
    for row, (start, end, _) in zip(rows, said, strict=True):
        assert start - 0.3 <= row["start"] <= start + 0.1 and end <= row["end"] <= end + 0.5
    assert "edges of sentences moved into the pause nearby" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<i> </i> ...", "cue without words"),
        ("♪ la la ♪", "cue with a sound"),
        ("(applause)", "cue with a sound"),
        ("&gt;&gt; No. >> Yes.", "two people in a cue"),
    ],
)
def test_a_cue_that_is_no_sentence_parts_the_one_around_it(text: str, reason: str) -> None:
    given = [(1.0, 1.9, "Half"), (2.0, 3.0, text), (3.1, 4.0, "and half.")]
    found = cues.sentences([cue_files.Cue(n, *cue) for n, cue in enumerate(given, 1)], "a.srt", 20.0, 9.0)
    assert [one.kind if isinstance(one, RowError) else one.text for one in found] == ["Half", reason, "and half."]


def test_captions_that_roll_are_read_once(tmp_path: Path) -> None:
    lines = ["so this is", "how it<00:00:03.000><c> comes</c>", "from the platform"]
    shown = ["WEBVTT\n"]
    for number, line in enumerate(lines):
        before = lines[number - 1] if number else " "
        shown.append(f"00:00:0{number}.000 --> 00:00:0{number}.990 align:start\n{before}\n{line}\n")
        shown.append(f"00:00:0{number}.990 --> 00:00:0{number + 1}.000 align:start\n{line}\n \n")
    (tmp_path / "a.vtt").write_text("\n".join(shown))
    (sentence,) = cues.sentences(cue_files.read(tmp_path / "a.vtt"), "a.vtt", 30.0, 9.0)
    assert isinstance(sentence, cues.Sentence)
    assert sentence.text == "so this is how it comes from the platform"


def test_margins_do_not_reach_into_the_next_sentence() -> None:
    """Cues that touch: what is said next begins where this one ends."""
    touching = [(1.0, 2.0, "One."), (2.0, 3.0, "Two."), (3.02, 4.0, "Three.")]
    given = [cue_files.Cue(number, *cue) for number, cue in enumerate(touching, start=1)]
    found = [one for one in cues.sentences(given, "a.srt", 20.0, 4.1) if isinstance(one, cues.Sentence)]
    assert [(one.start, one.end) for one in found] == [(0.85, 2.0), (2.0, 3.01), (3.01, 4.05)]


def test_what_is_no_sentence_is_left_out_with_its_cue(tmp_path: Path, fetched: Any) -> None:
    said = talk(tmp_path / "in" / "talk.wav")
    bad = [
        (*said[1][:2], "[Music]"),
        (*said[2][:2], "- Who is it?\n- It is me."),
        (said[3][1], said[3][0], "Ends before it begins."),
        (*said[4][:2], "At the same time."),
        (said[4][0] + 0.2, said[4][1], "As this."),
    ]
    (tmp_path / "in" / "talk.srt").write_text(srt([said[0], *bad, said[5]]), encoding="utf-8")
    got = fetched(DATA_DIR=tmp_path / "in")
    assert [row["text"] for row in got["train"]] == [said[0][2], said[5][2]]
    assert sorted(row["reason"] for row in got["rejected"]) == [
        "cue with a sound", "cue with impossible times", "cues overlap", "cues overlap", "two people in a cue",
    ]  # fmt: skip
    assert all("talk.srt cue " in row["detail"] for row in got["rejected"])


def test_who_speaks_is_the_speaker(tmp_path: Path, fetched: Any) -> None:
    said = talk(tmp_path / "in" / "talk.wav", count=2)
    text = vtt([(*said[0][:2], f"<v Anna>{said[0][2]}</v>"), (*said[1][:2], f"<v Bo>{said[1][2]}</v>")])
    (tmp_path / "in" / "talk.vtt").write_text(text, encoding="utf-8")
    rows = fetched(DATA_DIR=tmp_path / "in")["train"]
    assert [(row["speaker"], row["text"]) for row in rows] == [("anna", said[0][2]), ("bo", said[1][2])]


def test_a_short_clip_with_a_text_and_subtitles_is_whole(tmp_path: Path, fetched: Any) -> None:
    """Whisper's programs write a text and subtitles of everything: a sentence is not cut up for that."""
    said = talk(tmp_path / "in" / "talk.wav", count=1)
    (tmp_path / "in" / "talk.srt").write_text(srt(said), encoding="utf-8")
    (tmp_path / "in" / "talk.txt").write_text(said[0][2], encoding="utf-8")
    (row,) = fetched(DATA_DIR=tmp_path / "in")["train"]
    assert row["text"] == said[0][2] and row.get("start") is None


def test_a_chapter_with_its_text_and_subtitles_is_cut(tmp_path: Path, fetched: Any) -> None:
    said = talk(tmp_path / "in" / "talk.wav")
    (tmp_path / "in" / "talk.srt").write_text(srt(said), encoding="utf-8")
    (tmp_path / "in" / "talk.txt").write_text(" ".join(text for *_, text in said), encoding="utf-8")
    rows = fetched(DATA_DIR=tmp_path / "in", MAX_SECONDS=8)["train"]
    assert [row["text"] for row in rows] == [text for *_, text in said]


def test_subtitles_in_two_languages_are_asked_about(tmp_path: Path, fetched: Any) -> None:
    said = talk(tmp_path / "in" / "talk.wav", count=2)
    for name in ("talk.en.srt", "talk.no.srt"):
        (tmp_path / "in" / name).write_text(srt(said), encoding="utf-8")
    with pytest.raises(BadInput, match=r"talk\.en\.srt and talk\.no\.srt of talk\.wav; keep the one that is said"):
        fetched(DATA_DIR=tmp_path / "in")


def test_tiers_that_do_not_say_which_is_said_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.TextGrid"
    path.write_text(textgrid([(0.5, 1.0, "Hello.")]).replace('"sentences"', '"other"'), encoding="utf-8")
    with pytest.raises(RowError, match=r"tiers phones, other; call the one with what is said utterance"):
        cue_files.read(path)


TIMES = st.lists(st.floats(0.05, 9.0), min_size=2, max_size=40)


@given(lengths=TIMES, ends=st.lists(st.booleans(), min_size=40, max_size=40), wild=st.booleans())
def test_every_cue_is_in_one_sentence_or_left_out(lengths: list[float], ends: list[bool], wild: bool) -> None:
    """And a sentence lies within the recording, is not too long, and has the words of its cues in their order."""
    at, found = 0.0, []
    for number, (length, end) in enumerate(zip(lengths, ends, strict=False), start=1):
        start = at + (0.3 if number % 3 else 0.0)
        at = start + (-length if wild and number % 7 == 0 else length)
        found.append(cue_files.Cue(number, start, at, f"word{number}{'.' if end else ''}"))
        at = max(at, start)
    rows = list(cues.sentences(found, "a.srt", 20.0, at))
    whole = [row for row in rows if isinstance(row, cues.Sentence)]
    numbers = [n for row in whole for n in range(row.first, row.last + 1) if f"word{n}" in row.text]
    assert len(numbers) == len(set(numbers))
    assert len(numbers) + sum(isinstance(row, RowError) for row in rows) == len(found)
    for row in whole:
        assert 0 <= row.start < row.end <= at + 1e-3
        assert row.end - row.start <= 20.001
        assert [word.strip(".") for word in row.text.split()] == [f"word{n}" for n in range(row.first, row.last + 1)]


@given(st.binary(max_size=400), st.sampled_from(["a.srt", "a.vtt", "a.TextGrid", "a.json", "a.txt"]))
def test_whatever_is_in_such_a_file_it_is_cues_or_one_reason(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    try:
        for cue in cue_files.read(path):
            assert cue.text is not None
    except RowError as error:
        assert name in error.detail
