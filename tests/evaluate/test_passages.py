"""A long text is said in passages of whole sentences that hold all of it, in any script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as some

from job.evaluate import passages
from tests.evaluate.test_say import environment, work  # noqa: F401 - a fixture
from tests.support.commands import run_job

LETTERS = some.sampled_from("abcdeéßжяअआกคבم猫が한 \n.,;:!?…。、，！？؟।\"'«»()-–—0123")


@given(some.text(LETTERS, max_size=400), some.integers(5, 80))
def test_passages_hold_the_whole_text_and_are_short(text: str, longest: int) -> None:
    """No letter is lost, added or moved; a passage is longer than allowed only by marks."""
    found = passages.of(text, longest)
    assert "".join("".join(found).split()) == "".join(text.split())
    if any(letter.isalnum() for letter in text):
        assert all(any(letter.isalnum() for letter in passage) for passage in found)
    assert all(passages.length("".join(filter(str.isalnum, passage))) <= longest for passage in found)


def test_sentences_stay_whole_where_they_fit() -> None:
    sentences = [f"This is sentence number {n}, said by Mr. J. Smith." for n in range(12)]
    found = passages.of(" ".join(sentences), 120)
    assert " ".join(found) == " ".join(sentences)
    assert all(passage.endswith("Smith.") and passages.length(passage) <= 120 for passage in found) and len(found) == 6
    assert passages.of("Short.") == ["Short."]


def test_a_sentence_that_is_too_long_is_divided_at_its_marks_or_between_words() -> None:
    clauses = "when the rain had ended, they went out; the road was wet, and nobody spoke"
    assert passages.of(clauses, 45) == ["when the rain had ended, they went out;", "the road was wet, and nobody spoke"]
    assert all(
        len(one) <= 20 and not one.startswith(" ") for one in passages.of("several words without any marks " * 4, 20)
    )
    assert [len(one) for one in passages.of("x" * 50, 20)] == [20, 20, 10]
    assert passages.of("猫が好き。犬も好き。" * 3, 30) == ["猫が好き。犬も好き。"] * 3


def test_say_joins_passages_of_the_same_voice(
    work: Path,  # noqa: F811
    talking: tuple[Path, list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each sentence as it is said alone, with a short silence between them."""
    rows = talking[1][:2]
    alone = []
    for row in rows:
        assert run_job(capsys, ["say", row["text"]], environment(work)).code == 0
        alone.append(soundfile.read(work / "said.wav", dtype="float32")[0])
    monkeypatch.setattr(passages, "LONGEST", max(len(row["text"]) for row in rows))
    done = run_job(capsys, ["say", " ".join(row["text"] for row in rows)], environment(work))
    assert done.code == 0, done.err
    audio, _ = soundfile.read(work / "said.wav", dtype="float32")
    silence = np.zeros(passages.PAUSE_FRAMES * 1920, np.float32)
    expected = np.concatenate([alone[0], silence, alone[1]])
    assert audio.size == expected.size
    assert np.abs(audio - expected).max() < 2e-3
