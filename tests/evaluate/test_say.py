"""`python -m job say`: the finished voice says a text at once, into a WAV, and aloud where there is a player."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from job.evaluate import say
from tests.evaluate.conftest import write_prepared
from tests.evaluate.test_synthesize import install, settings
from tests.support.commands import run_job

Talking = tuple[Path, list[dict[str, Any]]]


@pytest.fixture
def work(talking: Talking, tmp_path: Path) -> Path:
    """A work directory in which training has ended."""
    checkpoint, rows = talking
    install(checkpoint, tmp_path)
    kept = ("text", "speaker", "language", "codes")
    write_prepared(settings(tmp_path).paths, [{name: row[name] for name in kept} for row in rows])
    return tmp_path


def environment(work: Path) -> dict[str, Any]:
    return {"WORK_DIR": work, "DEVICE": "cpu", "MIXED_PRECISION": "no", "GREEDY": "true"}


def test_a_text_becomes_a_wav_of_what_the_voice_knows(work: Path, talking: Talking, capsys: pytest.CaptureFixture[str]):
    """The command's line names the file, its length and the speaker; the sound is the sentence that was learned."""
    row = talking[1][0]
    result = run_job(capsys, ["say", row["text"]], environment(work))
    assert result.code == 0, result.err
    audio, rate = soundfile.read(work / "said.wav", dtype="float32")
    assert (rate, audio.size) == (24_000, len(row["codes"]) * 1920)
    (line,) = [line for line in result.out.splitlines() if line.startswith("[say]")]
    assert f"{work / 'said.wav'}: {audio.size / rate:.2f} s as my_voice" in line


def test_speaker_and_file_are_chosen_and_nothing_else_is_touched(work: Path, capsys: pytest.CaptureFixture[str]):
    before = sorted(str(path) for path in work.rglob("*"))
    target = work / "new folder" / "other.wav"
    result = run_job(
        capsys, ["say", "Nine.", "--speaker", " Other ", "--to", str(target)], environment(work) | {"MAX_NEW_TOKENS": 8}
    )
    assert result.code == 0, result.err
    assert soundfile.info(target).subtype == "PCM_16" and "as other" in result.out
    assert sorted(str(path) for path in work.rglob("*")) == sorted([*before, str(target.parent), str(target)])


def test_a_language_that_changes_nothing_is_told(work: Path, capsys: pytest.CaptureFixture[str]):
    """With prepared data a speaker speaks the language of its rows, without them LANGUAGE, if the voice has it."""
    for language, said in (("English", None), ("German", "in english, the language of my_voice's rows, and not by")):
        result = run_job(capsys, ["say", "Nine."], environment(work) | {"MAX_NEW_TOKENS": 4, "LANGUAGE": language})
        assert result.code == 0, result.err
        assert ("the language of" in result.out) == (said is not None)
        assert said is None or f"[say] {said} LANGUAGE=German\n" in result.out
    shutil.rmtree(work / "data")
    for language, told in (("German", False), ("Klingon", True)):
        result = run_job(capsys, ["say", "Nine."], environment(work) | {"MAX_NEW_TOKENS": 4, "LANGUAGE": language})
        assert result.code == 0, result.err
        assert ("[say] LANGUAGE=Klingon: this voice has no such language, and is told none" in result.out) == told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["say", "Hello.", "--speaker", "nobody"], r"--speaker nobody: .* speaks as my_voice, other"),
        (["say", " \u2026 !"], "no words in the text"),
        (["say", "Hello.", "--to", "{work}"], r"--to /.*: a directory; name the WAV in it, for example /.*/said\.wav"),
        (["say", "Hello.", "--to", "{work}/a.mp3"], r"--to /.*/a\.mp3: only WAV is written; name it /.*/a\.wav"),
        (["say", "Hello.", "--to", "/proc/none/a.wav"], r"--to /proc/none/a\.wav: cannot be written \("),
        (["say", "Hello.", "--to", "/proc/a.wav"], r"--to /proc/a\.wav: cannot be written"),
    ],
)
def test_what_cannot_be_said_is_refused_in_one_line(
    work: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    import re

    before = sorted(work.rglob("*"))
    result = run_job(capsys, [one.replace("{work}", str(work)) for one in arguments], environment(work))
    assert result.code == 2
    assert sorted(work.rglob("*")) == before
    (line,) = result.errors
    assert re.search(said, line)
    assert not (work / "said.wav").exists()


def test_a_place_by_default_is_tried_before_the_model_is_loaded(work: Path, capsys: pytest.CaptureFixture[str]):
    """A voice on a read-only volume, say: one line names the way out."""
    said = work / "said.wav"
    said.mkdir()
    result = run_job(capsys, ["say", "Hello."], environment(work))
    assert result.code == 2
    assert result.errors == [f"error: --to {said}: a directory; name the WAV in it, for example {said / 'said.wav'}"]


def test_before_training_it_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    result = run_job(capsys, ["say", "Hello."], environment(tmp_path))
    assert result.code == 2
    assert "run `python -m job train` first" in result.errors[0]


@pytest.fixture
def player(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only program on the PATH: it writes down what it is asked to play."""
    heard = tmp_path / "heard"
    program = tmp_path / "bin" / "aplay"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho \"$@\" > '{heard}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))
    return heard


def test_a_file_is_played_for_a_person_only(tmp_path: Path, player: Path, monkeypatch: pytest.MonkeyPatch):
    """On a terminal the first player that is there plays it; in a log nothing does."""
    wav = tmp_path / "said.wav"
    assert not say.play(wav) and not player.exists()
    inside, outside = os.openpty()
    with os.fdopen(outside, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert say.play(wav)
        assert player.read_text() == f"-q {wav}\n"
        monkeypatch.setenv("PATH", str(tmp_path))
        assert not say.play(wav)
    os.close(inside)
