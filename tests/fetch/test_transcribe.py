"""Recordings without texts are transcribed: rows that a person can correct, and nothing is heard twice."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from job import fetch, pipeline
from job.audio import speech
from job.config import settings as variables
from job.core import files
from job.core.errors import BadInput
from job.fetch import pauses
from job.model import recogniser
from tests.evaluate.test_judges import tiny_recogniser
from tests.fetch.conftest import write_lines
from tests.fetch.test_cues import talk
from tests.support import whisper
from tests.support.whisper import TEXTS, UNSURE, wave


def _noise() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, 2 * whisper.RATE).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five recordings without texts: three sentences, one that the recogniser is unsure of, and noise."""
    root = tmp_path / "voice"
    root.mkdir()
    for name, sound in zip("abcde", [*map(wave, [*TEXTS, UNSURE]), _noise()], strict=True):
        soundfile.write(root / f"{name}.wav", sound, whisper.RATE)
    return root


@pytest.fixture
def heard(fetched: Callable[..., Any], tiny_whisper: Path) -> Callable[..., Any]:
    """Run fetch with the tiny recogniser."""
    options = {"TRANSCRIBE": "auto", "ASR_MODEL": tiny_whisper, "DEVICE": "cpu", "LANGUAGE": "English"}
    return lambda **more: fetched(**{**options, **more})


def _texts(got: dict[str, Any]) -> list[str]:
    return [row["text"] for row in got["train"]]


def test_a_folder_of_recordings_becomes_rows_and_what_is_doubtful_is_left_out_with_its_figure(
    folder: Path, heard: Any, tiny_whisper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got = heard(DATA_DIR=folder)
    assert _texts(got) == TEXTS and [row["id"] for row in got["train"]] == ["a", "b", "c"]
    assert {row["transcribed_by"] for row in got["train"]} == {str(tiny_whisper)}
    left, silent = got["rejected"]
    assert (silent["row"], silent["reason"]) == (5, "no speech")
    assert left["row"] == 4 and left["reason"] in ("transcript is doubtful", "transcript repeats itself")
    assert left["detail"].startswith("d.wav: ") and "is accepted" in left["detail"]
    assert f"3 rows of 3 s were transcribed by {tiny_whisper}" in capsys.readouterr().out
    rows = list(files.read_jsonl(got["settings"].paths.transcripts))
    assert [row["text"] for row in rows] == TEXTS and all(0.5 < row["confidence"] <= 1 for row in rows)


@pytest.mark.parametrize(
    ("text", "figures", "reason", "detail"),
    [
        ("So it is.", {"logprob": -0.4, "no_speech": 0.9}, None, None),
        ("So it is.", {"logprob": -1.2, "no_speech": 0.1}, "transcript is doubtful", "-1.20, -1 at least is accepted"),
        ("So it is.", {"logprob": -1.2, "no_speech": 0.9}, "nothing was recognised", "0.90 that nobody speaks, 0.6"),
        ("so it is, " * 9, {"logprob": -0.1}, "transcript repeats itself", "ratio 4.3, 2.4 at most is accepted"),
        (" ... ", {"logprob": -0.1}, "nothing was recognised", "no words"),
        ("So it", {"logprob": -0.1, "ended": False}, "transcript has no end", "cut off after 5 characters"),
    ],
)
def test_whispers_own_criteria_decide(text: str, figures: Any, reason: str | None, detail: str | None) -> None:
    doubt = recogniser.Transcript(text, "en", **figures).doubt()
    assert (doubt and doubt[0]) == reason
    assert doubt is None or str(detail) in doubt[1]


def test_what_a_person_changed_counts_and_nothing_is_heard_again(folder: Path, heard: Any) -> None:
    path = heard(DATA_DIR=folder)["settings"].paths.transcripts
    first, _, third = files.read_jsonl(path)
    write_lines(path, [{**first, "text": "Hallo."}, third])
    (folder / "b.wav").touch()
    got = heard(DATA_DIR=folder, ASR_MODEL="/nowhere")  # it need not even be loaded
    assert _texts(got) == ["Hallo.", TEXTS[2]]
    assert ["transcribed_by" in row for row in got["train"]] == [False, True]
    assert [row["row"] for row in got["rejected"]] == [4, 5]
    write_lines(path, ["{broken"])
    with pytest.raises(BadInput, match=r"transcripts\.jsonl line 1: not JSON.*mend the line"):
        heard(DATA_DIR=folder)
    path.unlink()
    assert _texts(heard(DATA_DIR=folder)) == TEXTS, "deleted: all is transcribed again"


def test_a_rerun_notices_that_the_transcripts_were_changed(
    folder: Path, tmp_path: Path, tiny_whisper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"DATA_DIR": str(folder), "ASR_MODEL": str(tiny_whisper), "DEVICE": "cpu", "WORK_DIR": str(tmp_path / "w")}
    loaded = variables.load(values)
    pipeline.run(loaded, "fetch", "fetch")
    (row, *_) = files.read_jsonl(loaded.paths.transcripts)
    pipeline.run(loaded, "fetch", "fetch")
    assert "[fetch] nothing to do" in capsys.readouterr().out
    write_lines(loaded.paths.transcripts, [row])
    pipeline.run(loaded, "fetch", "fetch")
    assert f"{loaded.paths.transcripts} has been added or changed" in capsys.readouterr().out
    assert len(list(files.read_jsonl(loaded.paths.manifest("train")))) == 1
    pipeline.run(loaded, "fetch", "fetch")
    assert "[fetch] nothing to do" in capsys.readouterr().out


def test_another_language_or_recording_is_heard_anew_unless_a_person_was_there(folder: Path, heard: Any) -> None:
    path = heard(DATA_DIR=folder)["settings"].paths.transcripts
    rows = list(files.read_jsonl(path))
    write_lines(path, [{**rows[0], "text": "By hand."}, *rows[1:]])
    soundfile.write(folder / "b.wav", wave(TEXTS[2]), whisper.RATE)
    got = heard(DATA_DIR=folder, LANGUAGE="German")
    assert _texts(got) == ["By hand.", TEXTS[2], TEXTS[2]]
    assert [row["language"] for row in files.read_jsonl(path)] == ["English", "German", "German"]


def test_a_long_recording_is_cut_in_pauses_and_a_killed_run_goes_on(tmp_path: Path, heard: Any) -> None:
    said = talk(tmp_path / "long" / "talk.wav", pause=0.7)
    got = heard(DATA_DIR=tmp_path / "long", MAX_SECONDS=4)
    paths = got["settings"].paths
    spans = [(line["start"], line["end"]) for line in files.read_jsonl(paths.heard) if "text" in line]
    assert {(row["start"], row["end"]) for row in got["train"]} < set(spans), "some are doubtful"
    assert len(spans) > 2 and all(end - start <= 4 for start, end in spans)
    whole, rate = soundfile.read(tmp_path / "long" / "talk.wav", dtype="float32")
    chances = speech.detector().probabilities(whole, rate)[speech.LEAD :]
    for edge in np.ravel(spans):
        assert chances[round(edge * speech.RATE / speech.WINDOW)] < speech.SPEECH, edge
        assert not any(start + 0.05 < edge < end - 0.05 for start, end, _ in said), "inside a sentence"
    for start, end, _ in said:
        assert any(a <= start + 0.1 and end - 0.1 <= b for a, b in spans), "every sentence is in a row"

    rows, log = paths.transcripts.read_bytes(), paths.heard.read_bytes()
    lines = log.splitlines(keepends=True)
    paths.heard.write_bytes(b"".join(lines[:2]) + lines[2][:40])  # killed while it wrote the third
    paths.transcripts.write_bytes(rows + b'{"audio": "/lo')
    again = heard(DATA_DIR=tmp_path / "long", MAX_SECONDS=4)
    assert again["train"] == got["train"] and again["rejected"] == got["rejected"]
    assert paths.transcripts.read_bytes() == rows and paths.heard.read_bytes() == log, "one line for each clip"


def test_rows_of_a_table_that_have_no_text_are_transcribed_and_the_others_are_left_alone(
    folder: Path, tmp_path: Path, heard: Any
) -> None:
    both = np.concatenate([wave(TEXTS[0]), wave(TEXTS[1])])
    soundfile.write(folder / "two.wav", both, whisper.RATE)
    at = len(wave(TEXTS[0])) / whisper.RATE
    rows = [
        {"audio": "a.wav", "text": "Given."},
        {"audio": "two.wav", "text": "", "start": at, "end": len(both) / whisper.RATE},
        {"audio": "c.wav", "speaker": "anna", "language": "de"},
    ]
    table = write_lines(folder / "t.jsonl", rows)
    got = heard(TRAIN_JSONL=table)
    assert _texts(got) == ["Given.", TEXTS[1], TEXTS[2]]
    assert got["train"][1]["start"] == pytest.approx(at) and got["train"][2]["speaker"] == "anna"
    assert [row.get("transcribed_by") is not None for row in got["train"]] == [False, True, True]
    assert _texts(heard(TRAIN_JSONL=table, TRANSCRIBE="always"))[0] == TEXTS[0]


def test_of_several_formats_of_a_recording_without_text_one_is_heard(folder: Path, heard: Any) -> None:
    soundfile.write(folder / "a.flac", wave(TEXTS[0]), whisper.RATE)
    assert _texts(heard(DATA_DIR=folder)) == TEXTS


def test_a_recogniser_that_is_no_whisper_is_used_as_it_is(tmp_path: Path) -> None:
    """For a language that Whisper does not know, say; it tells no figures but the text."""
    asr_model = str(tiny_recogniser(tmp_path / "ctc"))
    assert recogniser.whisper_code("Igbo", asr_model, "here") is None
    loaded = recogniser.Recogniser(variables.load({"ASR_MODEL": asr_model, "DEVICE": "cpu", "WORK_DIR": str(tmp_path)}))
    found = loaded.transcribe([wave(text) for text in TEXTS] * 2, None)
    assert len(found) == 6 and all(one.confidence is None for one in found)
    assert found[0] == found[3] and found[0] != found[2]


def test_a_gpu_with_little_memory_hears_fewer_clips_at_once(
    tiny_whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    values = {"ASR_MODEL": str(tiny_whisper), "DEVICE": "cpu", "WORK_DIR": str(tmp_path)}
    loaded = recogniser.Recogniser(variables.load(values))
    encoder = loaded._model.get_encoder()
    listen = encoder.forward

    def forward(features: Any, **more: Any) -> Any:
        if len(features) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return listen(features, **more)

    monkeypatch.setattr(encoder, "forward", forward)
    assert [one.text for one in loaded.transcribe([wave(text) for text in TEXTS], "en")] == TEXTS


def test_a_whisper_for_english_is_not_used_for_another_language(tiny_whisper: Path, tmp_path: Path) -> None:
    values = {"ASR_MODEL": str(tiny_whisper), "DEVICE": "cpu", "WORK_DIR": str(tmp_path)}
    loaded = recogniser.Recogniser(variables.load(values))
    loaded._model.generation_config.is_multilingual = False
    with pytest.raises(BadInput, match="knows English only"):
        loaded.transcribe([wave(TEXTS[0])], "de")


def test_never_ends_in_one_line_that_names_the_variable(folder: Path, fetched: Any) -> None:
    with pytest.raises(BadInput, match=r"none of its 5 recordings has a .txt .*TRANSCRIBE=auto transcribes them$"):
        fetched(DATA_DIR=folder, TRANSCRIBE="never")
    table = write_lines(folder / "t.jsonl", [{"audio": "a.wav"}])
    with pytest.raises(BadInput, match=r"no column looks like the text.*TRANSCRIBE"):
        fetched(TRAIN_JSONL=table, TRANSCRIBE="never")


def test_a_language_that_whisper_does_not_know_ends_a_run_before_anything_is_loaded(folder: Path, fetched: Any) -> None:
    for asr_model in ({}, {"ASR_MODEL": "openai/whisper-large-v3"}):
        values = {"DATA_DIR": str(folder), "WORK_DIR": str(folder / "w"), "LANGUAGE": "Igbo", **asr_model}
        with pytest.raises(BadInput, match=r"LANGUAGE=Igbo: Whisper does not know Igbo.*set ASR_MODEL"):
            fetch.check(variables.load(values))
        with pytest.raises(BadInput, match="LANGUAGE=Igbo"):
            fetched(TRANSCRIBE="auto", **values)


@pytest.mark.parametrize(
    ("name", "code"),
    [("Norwegian", "no"), ("nb", "no"), ("Deutsch", "de"), ("jv", "jw"), ("Filipino", "tl"), ("Auto", None)],
)
def test_languages_get_whispers_codes(name: str, code: str | None) -> None:
    assert recogniser.whisper_code(name, None, "here") == code


def test_a_check_before_the_run_loads_no_recogniser(folder: Path) -> None:
    values = {"DATA_DIR": str(folder), "WORK_DIR": str(folder / "w"), "ASR_MODEL": "/nowhere"}
    assert "text in text, audio in audio" in fetch.check(variables.load(values))
    assert not (folder / "w").exists(), "nothing is written"


def test_without_a_recogniser_a_few_rows_are_left_out_and_a_whole_source_is_an_error(
    folder: Path, fetched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table with a few empty cells is no reason to need the Hub; a folder without any text is."""
    monkeypatch.setattr(recogniser, "RELEASED_SMALL", str(folder / "no model"))
    table = write_lines(
        folder / "t.jsonl", [{"audio": "a.wav", "text": "x"}, {"audio": "b.wav", "text": "y"}, {"audio": "c.wav"}]
    )
    got = fetched(TRAIN_JSONL=table, TRANSCRIBE="auto", DEVICE="cpu")
    assert [row["text"] for row in got["train"]] == ["x", "y"]
    assert [row["reason"] for row in got["rejected"]] == ["no text"]
    assert "cannot be loaded to transcribe" in capsys.readouterr().err
    table.unlink()
    with pytest.raises(BadInput, match=r"no text in [45] of 5 rows.*ASR_MODEL is not set.*TRANSCRIBE=never"):
        fetched(DATA_DIR=folder, TRANSCRIBE="auto", DEVICE="cpu")


def test_a_table_whose_text_has_a_strange_name_is_not_transcribed_unasked(folder: Path, heard: Any) -> None:
    table = write_lines(folder / "t.jsonl", [{"audio": f"{n}.wav", "ortho": f"ord {n}"} for n in "abc"])
    with pytest.raises(BadInput, match="name it with TEXT_COLUMN; TRANSCRIBE=always"):
        heard(TRAIN_JSONL=table)


@given(st.lists(st.tuples(st.floats(0.05, 3.0), st.floats(0.07, 4.0)), min_size=1, max_size=30), st.floats(4.0, 20.0))
def test_pieces_hold_all_speech_and_are_cut_only_in_pauses(steps: list[tuple[float, float]], longest: float) -> None:
    stretches, at = [], 0.0
    for pause, told in steps:
        stretches.append((at + pause, at + pause + told))
        at += pause + told
    found = list(pauses.pieces(iter(stretches), 0.0, at, longest))
    assert all(one.end <= two.start + 1e-3 for one, two in pairwise(found))
    for one in found:
        inside = [s for s in stretches if one.start - 1e-3 <= s[0] and s[1] <= one.end + 1e-3]
        assert inside, "no piece without speech"
        assert one.fault is not None or one.end - one.start <= longest + 1e-2
        assert not any(s[0] + 1e-3 < edge < s[1] - 1e-3 for edge in (one.start, one.end) for s in stretches)
    for start, end in stretches:
        assert sum(one.start - 1e-3 <= start and end <= one.end + 1e-3 for one in found) == 1
