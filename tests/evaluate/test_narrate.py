"""`python -m job say --file`: chapters become WAVs, and what was said is not said again."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from job.evaluate import narrate, passages
from tests.evaluate import test_say
from tests.support.commands import run_job

Talking = tuple[Path, list[dict[str, Any]]]


work = test_say.work


@pytest.fixture
def texts(talking: Talking, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sentences that the voice knows, each long enough to be a passage of its own."""
    known = ["Hello there, my friend.", "A longer sentence is this.", "Nine and ten are numbers."]
    monkeypatch.setattr(passages, "LONGEST", max(map(len, known)))
    assert len(passages.of(" ".join(known))) == 3
    return known


def narrated(capsys: Any, work: Path, *arguments: Any, **variables: Any) -> Any:
    return run_job(capsys, ["say", *map(str, arguments)], test_say.environment(work) | variables)


def test_a_changed_chapter_costs_its_changed_passages(
    work: Path,
    texts: list[str],
    tmp_path: Path,
    capsys: Any,
) -> None:
    one, two = tmp_path / "one.md", tmp_path / "two.txt"
    one.write_text(f"# {texts[0]}\n\n*{texts[1]}*\n", encoding="utf-8")
    two.write_text(texts[2], encoding="utf-16")
    first = narrated(capsys, work, "--file", one, "--file", two)
    assert first.code == 0, first.err
    assert f"{one}: 2 marks are not said" in first.out and "one.wav: " in first.out and "two.wav: " in first.out
    before, _ = soundfile.read(work / "said" / "one.wav", dtype="float32")
    kept = {path: path.stat().st_mtime_ns for path in (work / "said").rglob("*.npz")}
    assert len(kept) == 3

    one.write_text(f"# {texts[0]}\n\n{texts[2]}\n", encoding="utf-8")
    second = narrated(capsys, work, "--file", one, "--file", two)
    assert second.code == 0, second.err
    assert "one.wav" in second.out and "2 passages, 1 of them said before" in second.out
    after, _ = soundfile.read(work / "said" / "one.wav", dtype="float32")
    same = int(np.argmin(np.isclose(before[: after.size], after[: before.size])))
    assert same > 24_000 * 0.2, "the first passage is the same sound"
    assert len(list((work / "said").rglob("*.npz"))) == 3, "passages that are said no more are removed"


def test_a_narration_that_is_cut_short_goes_on(
    work: Path,
    texts: list[str],
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chapter = tmp_path / "chapter.txt"
    chapter.write_text("\n\n".join(texts), encoding="utf-8")
    monkeypatch.setattr(narrate, "BATCH", 1)
    real, calls = narrate.speak, []

    def cut(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", "x.npz")
        return real(*arguments)

    monkeypatch.setattr(narrate, "speak", cut)
    assert narrated(capsys, work, "--file", chapter).code == 2
    done = narrated(capsys, work, "--file", chapter, "--to", work / "said" / "chapter.wav")
    assert done.code == 0 and "3 passages, 2 of them said before" in done.out and len(calls) == 4
    monkeypatch.setattr(narrate, "speak", None)  # nothing is said any more, not even the model is loaded
    again = narrated(capsys, work, "--file", chapter)
    assert again.code == 0 and "3 of them said before" in again.out, again.err


def test_a_cover_without_words_does_not_keep_the_chapters_behind_it_from_being_said(
    work: Path,
    texts: list[str],
    tmp_path: Path,
    capsys: Any,
) -> None:
    contents = {"00.txt": texts[0], "01.md": "![](cover.png)\n", "02.md": texts[1]}
    for name, content in contents.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    done = narrated(capsys, work, *[part for name in contents for part in ("--file", tmp_path / name)])
    assert done.code == 0 and "01.md: there are no words in it; it is left out" in done.out + done.err
    assert sorted(wav.name for wav in (work / "said").glob("*.wav")) == ["00.wav", "02.wav"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a text .* or files"),
        (["Hello.", "--file", "{here}/a.txt"], "one of the two"),
        (["--file", "{here}/none.txt"], "--file .*none.txt: cannot be read"),
        (["--file", "{here}/latin.txt"], "--file .*latin.txt: not UTF-8; save it as UTF-8"),
        (["--file", "{here}/empty.md"], "--file .*empty.md: there are no words in it"),
        (["--file", "{here}/a.txt", "--file", "{here}/b/a.md"], "would both be .*a.wav"),
        (["--file", "{here}/a.txt", "--file", "{here}/b/A.txt"], "would both be .*A.wav"),
        (["--file", "{here}/a.txt", "--to", "{here}/a.mp3"], "--to .*a.mp3: only WAV is written; name it .*a.wav"),
        (["--file", "{here}/a.txt", "--file", "{here}/b/a.md", "--to", "{here}/x.wav"], "one WAV for 2 files"),
        (["--file", "{here}/a.txt", "--speaker", "nobody"], "--speaker nobody: .* speaks as"),
    ],
)
def test_what_cannot_be_read_aloud_is_refused_in_one_line(
    work: Path,
    tmp_path: Path,
    capsys: Any,
    arguments: list[str],
    said: str,
) -> None:
    import re

    for name, content in {
        "a.txt": b"Hi.",
        "b/a.md": b"Hi.",
        "b/A.txt": b"Hi.",
        "latin.txt": b"bl\xe5",
        "empty.md": b"# \n---\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    result = narrated(capsys, work, *[one.replace("{here}", str(tmp_path)) for one in arguments])
    (line,) = result.errors
    assert result.code == 2 and re.search(said, line) and not list(work.rglob("*.wav"))
    assert not (tmp_path / "a.mp3").exists()
