"""Through the whole stage: rows with a text that is not theirs are left out, moved or shuffled texts are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from job import prepare
from job.config.settings import Settings
from job.core import files
from job.core.errors import DataRefused
from job.dataset.prepared import read_split
from job.prepare import mismatch, shards, shifted
from job.prepare.stage import merge
from job.prepare.work import Work
from tests.prepare.conftest import Make, voice
from tests.prepare.corpora import corpus


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 16 lines."""
    monkeypatch.setattr(shards, "LINES", 16)


def encoded(seed: int, rows: int, script: str = "english", **how: Any) -> list[dict[str, Any]]:
    """Rows that come encoded, as long as their texts take; their ids are not in the order of anything."""
    made = corpus(seed, rows, script, spread=0.08, **how)
    random = np.random.default_rng(seed)
    frames = np.maximum(2, np.round(made.heard * 12.5)).astype(int)
    return [
        {"text": text, "language": script.capitalize(), "audio_codes": random.integers(0, 2048, (count, 16)).tolist()}
        for text, count in zip(made.texts, frames, strict=True)
    ]


def twice(rows: list[dict[str, Any]], *places: int) -> None:
    for place in places:
        rows[place]["text"] = f"{rows[place]['text']} {rows[place]['text']}"


@pytest.fixture
def reference(wav: Callable[..., str]) -> str:
    return wav("reference", voice(3.0, seed=99))


def refused(settings: Settings) -> str:
    with pytest.raises(DataRefused) as caught:
        prepare.run(settings)
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
    assert files.read_json(settings.paths.quality)["problems"]
    return str(caught.value)


@pytest.mark.parametrize("script", ["english", "japanese"])
def test_a_row_of_two_sentences_is_left_out_with_figures(make: Make, reference: str, script: str) -> None:
    """It is in rejected.jsonl with its row, counted in quality.json, and in neither split."""
    rows = encoded(1, 60, script)
    twice(rows, 6, 40)
    settings = make(rows, ref_audio_path=reference, validation_fraction=0.1)
    counts = prepare.run(settings)
    rejected = list(files.read_jsonl(settings.paths.rejected))
    assert [(row["row"], row["id"], row["reason"]) for row in rejected] == [
        (7, "train-7", "text_mismatch"),
        (41, "train-41", "text_mismatch"),
    ]
    for row in rejected:
        assert f"rows of {script} say" in row["detail"] and " s of sound, " in row["detail"]
    assert files.read_json(settings.paths.quality)["rejected"] == {"text_mismatch": 2}
    assert (counts["train_rows"] + counts["validation_rows"], counts["rejected"]) == (58, 2)
    kept = [name for split in ("train", "validation") for name in read_split(settings.paths, split)["id"].to_pylist()]
    assert len(kept) == 58 and not {"train-7", "train-41"} & set(kept)


@pytest.mark.slow
def test_recordings_are_measured_without_the_silence_at_their_ends(make: Make, wav: Callable[..., str]) -> None:
    """One is half silence and belongs to its text; another says half of its text. It is no reference clip either."""
    made = corpus(2, 40, seconds=lambda random, rows: random.uniform(0.8, 3.2, rows), spread=0.05)
    rows = []
    for n, (text, heard) in enumerate(zip(made.texts, made.heard, strict=True)):
        ends = np.zeros(int(24_000 * heard / 2) if n == 5 else 1200, dtype=np.float32)
        sound = voice(heard, seed=n) if n != 9 else voice(max(heard, 3.0) / 2, seed=n)
        rows.append({"audio": wav(f"clip{n}", np.concatenate([ends, sound, ends])), "text": text})
    rows[9]["text"] = corpus(3, 1, seconds=lambda random, count: np.full(count, 4.5)).texts[0]
    settings = make(rows, ref_audio_strategy="best")
    prepare.run(settings)
    assert [row["row"] for row in files.read_jsonl(settings.paths.rejected)] == [10]
    summary = files.read_json(settings.paths.prepared / "summary.json")
    assert not any("clip9.wav" in one for about in summary["speakers"].values() for one in about["references"])


def test_the_gate_off_keeps_the_row_with_a_warning(make: Make, reference: str) -> None:
    for gate, kept in (("off", 40), ("warn", 39)):
        rows = encoded(3, 40)
        twice(rows, 12)
        settings = make(rows, work=gate, ref_audio_path=reference, quality_gate=gate)
        counts = prepare.run(settings)
        assert counts["train_rows"] == kept
        assert counts["warnings"] == ({"text_mismatch": 1} if gate == "off" else {})


def test_a_text_that_nobody_can_say_in_the_time_is_left_out_of_the_smallest_corpus(make: Make, reference: str) -> None:
    rows = encoded(4, 5)
    rows[3]["text"] = " ".join(["far too many words"] * 40)
    rows[4] = {**encoded(5, 1, seconds=lambda random, count: np.full(count, 9.0))[0], "text": "Oh"}
    settings = make(rows, ref_audio_path=reference)
    assert prepare.run(settings)["train_rows"] == 3
    details = [row["detail"] for row in files.read_jsonl(settings.paths.rejected)]
    assert len(details) == 2 and all("people say" in detail for detail in details)


def test_limits_hold_and_several_processes_find_the_same(make: Make, reference: str) -> None:
    rows, held = encoded(5, 70), encoded(6, 12)
    twice(rows, 3, 33)
    twice(held, 1)
    values: dict[str, Any] = {"ref_audio_path": reference, "max_hours": 0.05, "max_eval_samples": 6}
    alone = make(rows, held, work="alone", **values)
    counts = prepare.run(alone)
    shared = make(rows, held, work="shared", **values)
    for rank in (1, 0):
        Work(shared).encode(("train", "validation"), rank, 2)
    assert merge(Work(shared)) == counts
    assert counts["hours"] <= 0.05 + 6 * 15 / 3600 and counts["validation_rows"] == 5 and counts["rejected"] == 3
    for name in ("quality", "rejected"):
        assert getattr(alone.paths, name).read_bytes() == getattr(shared.paths, name).read_bytes()
    for split in ("train", "validation"):
        assert read_split(alone.paths, split).equals(read_split(shared.paths, split))


@pytest.mark.parametrize(("by", "says"), [(-1, "one row before it"), (2, "2 rows after it")])
def test_texts_moved_from_some_row_on_are_refused_by_name(make: Make, reference: str, by: int, says: str) -> None:
    """Some rows were left out before; the fix is named. QUALITY_GATE=warn goes on with what can be said at all."""
    rows = encoded(7, 120)
    texts = [row["text"] for row in rows]
    for place in range(40, 120):
        rows[place]["text"] = texts[min(119, place + by)]
    rows = [{**row, "row": n, "source": "sheet.csv"} for n, row in enumerate(rows, start=1) if n % 11]
    said = refused(make(rows, ref_audio_path=reference))
    assert f"each text is about the recording {says} (sheet.csv)" in said and "shifted against each other" in said
    first = int(said.split("from row ")[1].split()[0])
    assert abs(first - 41) <= 4
    warned = make(rows, work="warned", ref_audio_path=reference, quality_gate="warn")
    counts = prepare.run(warned)
    assert counts["train_rows"] + counts["validation_rows"] + counts["rejected"] == len(rows)
    details = [row["detail"] for row in files.read_jsonl(warned.paths.rejected)]
    rates = [float(detail.split(" a second")[0].split(", ")[-1]) for detail in details]
    assert all(rate < 1 or rate > 30 for rate in rates)


def test_shuffled_texts_are_refused_as_such(make: Make, reference: str) -> None:
    rows = encoded(8, 120, "chinese")
    order = np.random.default_rng(8).permutation(120)
    texts = [row["text"] for row in rows]
    for row, place in zip(rows, order, strict=True):
        row["text"] = texts[place]
    said = refused(make(rows, ref_audio_path=reference))
    assert "the 120 rows of rows.jsonl have texts that do not belong to their recordings" in said
    assert "shifted" not in said


@pytest.mark.slow
def test_real_speech_is_kept(make: Make, clips: list[dict[str, Any]]) -> None:
    """All embedded clips, from one word to a long sentence, by language and without any."""
    for language in ("given", "auto"):
        rows = [
            {"audio": row["audio"], "text": row["text"], "language": row["language"] if language == "given" else None}
            for row in clips * 2
        ]
        settings = make(rows, work=language, quality_gate="warn")
        assert prepare.run(settings)["rejected"] == 0


@pytest.mark.parametrize("by, place", [(1, "at its beginning"), (-2, "at its beginning"), (1, "just before row 51")])
def test_a_shift_from_the_beginning_on_points_to_no_row_before_the_first(by: int, place: str) -> None:
    """There is none; what the user must look for is a header or a title in one of the two lists."""
    first = 51 if "row" in place else max(1, 1 - by)
    said = mismatch.shifted_line(shifted.Shift(first=first, last=100, by=by, to_the_end=True), "a.tsv")
    assert said.startswith(f"from row {first} on each text") and place in said
    assert "before row 1" not in said and "before row 3" not in said
