"""A long recording with its text becomes rows, a sentence each: no word is cut, and what does not fit is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from job import fetch
from job.config import settings as variables
from job.core import files
from job.core.errors import BadInput
from job.demo import manifest
from job.fetch.alignment import emissions
from tests.fetch.conftest import write_lines
from tests.support import ctc

#: The texts of the embedded clips, and a sentence that no recording has.
CLIPS = [row for row in manifest() if row["language"] == "English"]
HEADING = "Chapter the first, in which nobody speaks"
UNSAID = "This sentence was left out by the reader, as readers do."


def _wave(row: dict[str, Any]) -> np.ndarray:
    wave, rate = soundfile.read(row["audio"], dtype="float32")
    wave = np.asarray(soxr.resample(wave, rate, ctc.RATE))
    return wave[: len(wave) // ctc.HOP * ctc.HOP]


@pytest.fixture(scope="session")
def tiny_ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real CTC model that hears the embedded English clips."""
    return ctc.build(tmp_path_factory.mktemp("ctc") / "tiny", [_wave(r) for r in CLIPS], [r["text"] for r in CLIPS])


def recorded(path: Path, order: list[int], seed: int = 0) -> list[tuple[float, float, str]]:
    """Write a recording of the clips in an order, with pauses; returns what is said when."""
    rng = np.random.default_rng(seed)
    parts, said, at = [], [], 0
    for number in order:
        wave = _wave(CLIPS[number])
        pause = ctc.HOP * int(rng.integers(20, 60))
        parts += [np.zeros(pause, np.float32), wave]
        said.append(((at + pause) / ctc.RATE, (at + pause + len(wave)) / ctc.RATE, CLIPS[number]["text"]))
        at += pause + len(wave)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate([*parts, np.zeros(ctc.RATE // 2, np.float32)]), ctc.RATE)
    return said


@pytest.fixture
def aligned(fetched: Callable[..., Any], tiny_ctc: Path) -> Callable[..., Any]:
    """Run fetch with the tiny model; recordings of more than 8 s are long."""
    options = {"ALIGN_MODEL": tiny_ctc, "DEVICE": "cpu", "MAX_SECONDS": 8, "LANGUAGE": "English"}
    return lambda **more: fetched(**{**options, **more})


ORDER = [6, 0, 3, 5, 4, 2, 6, 1, 5, 3, 0, 6, 4, 5, 2, 3]


@pytest.fixture
def chapter(tmp_path: Path) -> tuple[Path, list[tuple[float, float, str]]]:
    """A folder with a recording and its text, and what is said when and is in the text.

    The text has a heading and a sentence that nobody reads; the recording a sentence that is not in the text.
    """
    said = recorded(tmp_path / "in" / "one.wav", ORDER)
    del said[8]
    told = [text for *_, text in said]
    text = f"{HEADING}\n\n{' '.join(told[:5])} {UNSAID}\n{' '.join(told[5:])}\n"
    (tmp_path / "in" / "one.txt").write_text(text, encoding="utf-8")
    return tmp_path / "in", said


def test_every_sentence_of_a_chapter_is_a_row_and_what_does_not_fit_is_told(
    chapter: Any, aligned: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, said = chapter
    got = aligned(DATA_DIR=folder)
    assert [row["text"] for row in got["train"]] == [text for *_, text in said]
    for row, (start, end, _) in zip(got["train"], said, strict=True):
        assert start - 0.25 <= row["start"] <= start and end <= row["end"] <= end + 0.25, "no word is cut"
    assert [row["reason"] for row in got["rejected"]] == [
        "text that is not said", "text that is not said", "speech without a text",
    ]  # fmt: skip
    details = [row["detail"] for row in got["rejected"]]
    assert HEADING in details[0] and UNSAID[:40] in details[1] and "wewalkedalongtheriver" in details[2]
    assert "one.wav: 15 of the 17 sentences of its text found" in capsys.readouterr().out
    assert not got["settings"].paths.alignment.exists(), "nothing is left behind"


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, aligned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emissions, "CORE", 5.0)
    said = recorded(tmp_path / "in" / "one.wav", ORDER[:6])
    (tmp_path / "in" / "one.txt").write_text(" ".join(text for *_, text in said), encoding="utf-8")
    got = aligned(DATA_DIR=tmp_path / "in")
    paths = got["settings"].paths
    kept = (paths.transcripts, paths.heard, paths.manifest("train"), paths.fetch_rejected)
    whole = [path.read_bytes() for path in kept]
    rows = whole[0].splitlines(keepends=True)
    paths.transcripts.write_bytes(b"".join(rows[:3]) + rows[3][:30])  # killed while it wrote the fourth
    paths.heard.unlink()
    aligned(DATA_DIR=tmp_path / "in")
    assert [path.read_bytes() for path in kept] == whole
    paths.heard.write_bytes(whole[1][: len(whole[1]) // 2])
    aligned(DATA_DIR=tmp_path / "in")
    assert [path.read_bytes() for path in kept] == whole

    shutil.rmtree(paths.work)
    heard, windows = emissions.CtcModel._heard, []

    def killed(self: Any, some: Any) -> Any:
        windows.extend(some)
        if len(windows) == 3:
            raise KeyboardInterrupt
        return heard(self, some)

    monkeypatch.setattr(emissions.CtcModel, "_heard", killed)
    with pytest.raises(KeyboardInterrupt):
        aligned(DATA_DIR=tmp_path / "in")
    aligned(DATA_DIR=tmp_path / "in")
    assert [path.read_bytes() for path in kept] == whole
    assert len(windows) == 4 + 1, "what had been heard was not heard again"


def test_what_a_person_changed_counts_and_a_corrected_text_is_aligned_anew(chapter: Any, aligned: Any) -> None:
    folder, said = chapter
    path = aligned(DATA_DIR=folder)["settings"].paths.transcripts
    first, _, *others = files.read_jsonl(path)
    write_lines(path, [{**first, "text": "By hand."}, *others])
    texts = [row["text"] for row in aligned(DATA_DIR=folder, ALIGN_MODEL="/nowhere")["train"]]
    assert texts == ["By hand.", *(text for *_, text in said[2:])], "the model need not even be loaded"
    path.unlink()
    (folder / "one.txt").write_text(" ".join(text for *_, text in said[3:]), encoding="utf-8")
    assert [row["text"] for row in aligned(DATA_DIR=folder)["train"]] == [text for *_, text in said[3:]]


def test_a_row_of_a_table_with_a_long_recording_is_cut_and_short_ones_are_left_alone(
    chapter: Any, tmp_path: Path, aligned: Any
) -> None:
    folder, said = chapter
    text = (folder / "one.txt").read_text(encoding="utf-8")
    short = {"audio": str(CLIPS[5]["audio"]), "text": "Whatever the table says.", "speaker": "bo"}
    table = write_lines(tmp_path / "t.jsonl", [short, {"audio": "in/one.wav", "text": text, "speaker": "anna"}])
    rows = aligned(TRAIN_JSONL=table)["train"]
    assert [row["text"] for row in rows] == [short["text"], *(text for *_, text in said)]
    assert [row["speaker"] for row in rows] == ["bo", *["anna"] * len(said)]
    assert [row["text"] for row in aligned(TRAIN_JSONL=table, ALIGN_MODEL="none")["train"]][:1] == [short["text"]]


def test_a_text_of_another_recording_is_refused_with_a_figure(chapter: Any, aligned: Any) -> None:
    folder, _ = chapter
    (folder / "one.txt").write_text("Es war einmal ein Kind. Das hatte keine Schuhe mehr. Da ging es fort, " * 9)
    with pytest.raises(
        BadInput, match=r"text is not that of the recording: one\.wav: \d+% of its letters.*ALIGN_MODEL"
    ):
        aligned(DATA_DIR=folder)


def test_without_a_model_a_run_ends_in_its_first_minute_with_what_to_do(chapter: Any, tmp_path: Path) -> None:
    values = {"DATA_DIR": str(chapter[0]), "WORK_DIR": str(tmp_path / "w"), "MAX_SECONDS": "8"}
    for model in (str(tmp_path / "nothing"), str(tmp_path)):
        with pytest.raises(BadInput, match=r"ALIGN_MODEL=.*cannot be loaded to find.*ALIGN_MODEL=none") as error:
            fetch.check(variables.load({**values, "ALIGN_MODEL": model}))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "w").exists(), "nothing is written"
