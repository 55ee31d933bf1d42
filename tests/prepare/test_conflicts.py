"""One recording with two texts: no row of it is trained on, and each names the other; equal texts are no conflict."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from job import prepare
from job.core import files
from job.core.errors import DataRefused
from job.dataset.prepared import read_split
from job.prepare import conflicts, shards
from tests.prepare.conftest import Make, voice


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 4 lines: most conflicts are between two of them."""
    monkeypatch.setattr(shards, "LINES", 4)


@pytest.fixture
def reference(wav: Callable[..., str]) -> str:
    return wav("reference", voice(3.0, seed=99))


def encoded(count: int, texts: list[str] | None = None) -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    return [
        {
            "text": texts[n] if texts else f"These are the words of sentence {n}.",
            "audio_codes": random.integers(0, 2048, (30 + n, 16)).tolist(),
        }
        for n in range(count)
    ]


def kept(settings: Any) -> set[str]:
    found = {*read_split(settings.paths, "train")["id"].to_pylist()}
    if (settings.paths.prepared / "validation").exists():
        found |= {*read_split(settings.paths, "validation")["id"].to_pylist()}
    return found


def test_a_copy_of_a_recording_with_another_text_is_left_out_with_the_original(
    make: Make, wav: Callable[..., str], tmp_path: Path
) -> None:
    """Byte for byte, and as a FLAC file of the same samples: it is what is heard that counts, not the file."""
    names = [wav(f"clip{n}", voice(1.5, seed=n)) for n in range(9)]
    shutil.copy(names[1], tmp_path / "another.wav")
    samples, rate = soundfile.read(names[3])
    soundfile.write(tmp_path / "third.flac", samples, rate)
    names += [str(tmp_path / "another.wav"), str(tmp_path / "third.flac")]
    settings = make([{"audio": name, "text": f"This is number {n} of all."} for n, name in enumerate(names)])
    prepare.run(settings)
    rejected = {row["row"]: row for row in files.read_jsonl(settings.paths.rejected)}
    assert {row: found["reason"] for row, found in rejected.items()} == dict.fromkeys((2, 4, 10, 11), "same_recording")
    for row, other in ((2, 10), (10, 2), (4, 11), (11, 4)):
        assert f"the same as that of row {other} (rows.jsonl)" in rejected[row]["detail"]
        assert "listen to it" in rejected[row]["detail"]
    assert kept(settings) == {f"train-{n}" for n in (1, 3, 5, 6, 7, 8, 9)}
    assert "same_recording" in settings.paths.quality_page.read_text()


@pytest.mark.parametrize(
    "one, other",
    [
        ("It is late, I know.", "it is late... I KNOW!"),
        ("Straße  nach Köln", "strasse nach Köln"),
        ("ｆｕｌｌ width", "full width"),
        ("今日は。", "今日は"),
    ],
)
def test_one_text_written_in_two_ways_is_no_conflict(make: Make, reference: str, one: str, other: str) -> None:
    rows = encoded(6)
    rows[0]["text"] = one
    rows.append({**rows[0], "text": other})
    settings = make(rows, ref_audio_path=reference)
    prepare.run(settings)
    assert not list(files.read_jsonl(settings.paths.rejected)) and len(kept(settings)) == 7


def test_the_rows_of_both_splits_are_compared(make: Make, reference: str) -> None:
    rows = encoded(8)
    settings = make(
        rows, [{**rows[5], "text": "Not at all what is said there."}, *encoded(12)[9:]], ref_audio_path=reference
    )
    prepare.run(settings)
    rejected = [(row["split"], row["row"]) for row in files.read_jsonl(settings.paths.rejected)]
    assert rejected == [("train", 6), ("validation", 1)]


def test_with_the_gate_off_they_are_kept_with_a_warning(
    make: Make, reference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = encoded(6)
    rows.append({**rows[2], "text": "Something else is written here."})
    settings = make(rows, ref_audio_path=reference, quality_gate="off")
    prepare.run(settings)
    assert not list(files.read_jsonl(settings.paths.rejected)) and len(kept(settings)) == 7
    assert files.read_json(settings.paths.quality)["warnings"]["same_recording"]["rows"] == 2
    assert "2 rows kept with a warning: same_recording" in capsys.readouterr().err


def test_short_and_silent_recordings_may_have_the_same_codes(make: Make, reference: str) -> None:
    """A codec has few codes for a breath, and one for silence."""
    rows = encoded(8)
    frame = rows[0]["audio_codes"]
    rows += [{"text": text, "audio_codes": frame[:3]} for text in ("Yes.", "No.")]
    rows += [{"text": text, "audio_codes": [frame[0]] * 30} for text in ("Not a sound.", "Nothing heard.")]
    settings = make(rows, ref_audio_path=reference, min_seconds=0.1)
    prepare.run(settings)
    assert len(kept(settings)) == 12


def test_where_most_rows_repeat_a_recording_the_whole_is_refused(make: Make, reference: str) -> None:
    """The audio column is wrong, then: that is said rather than a list of rows."""
    rows = encoded(3)
    rows += [{**rows[0], "text": f"Sentence {n} of the others."} for n in range(6)]
    with pytest.raises(DataRefused, match="rows repeat the codes of another row"):
        prepare.run(make(rows, ref_audio_path=reference))


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), max_size=40))
def test_exactly_the_rows_of_recordings_with_several_texts_are_found(rows: list[tuple[int, int]]) -> None:
    """Whatever the order, and whether they are in one shard or in many; the row that is named has other words."""
    random = np.random.default_rng(0)
    codes = [random.integers(0, 9, (8, 2)).tolist() for _ in range(13)]
    table = pa.table(
        {
            "position": pa.array(range(len(rows)), pa.int64()),
            "number": pa.array(range(1, len(rows) + 1), pa.int64()),
            "source": pa.array(["a.jsonl"] * len(rows), pa.string()),
            "reason": pa.nulls(len(rows), pa.string()),
            "text": pa.array([f"text {text}" for _, text in rows], pa.string()),
            "digest": pa.array([recording for recording, _ in rows], pa.uint64()),
            "codes": pa.array([codes[recording] for recording, _ in rows], pa.list_(pa.list_(pa.int16(), 2))),
        }
    )
    in_parts, at_once = conflicts.Recordings(), conflicts.Recordings()
    at_once.add("train", table)
    for start in range(0, len(rows), 7):
        in_parts.add("train", table.slice(start, 7))
    left_out = at_once.compare()
    assert in_parts.compare().details == left_out.details
    distinct = {recording for recording, _ in rows}
    if len(rows) - len(distinct) > len(rows) / 2:
        assert not len(left_out.position)
        return
    texts = {recording: {text for one, text in rows if one == recording} for recording in distinct}
    assert left_out.position.tolist() == [n for n, (recording, _) in enumerate(rows) if len(texts[recording]) > 1]
    for position, detail in zip(left_out.position, left_out.details, strict=True):
        other = int(detail.split("row ")[1].split(" ")[0]) - 1
        assert rows[other][0] == rows[position][0] and rows[other][1] != rows[position][1]
