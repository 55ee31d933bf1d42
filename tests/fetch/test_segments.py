"""A row that means a part of a recording gets that part; rows that share one without a place in it are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from job.core.errors import BadInput
from tests.fetch.conftest import write_audio, write_lines


def parts(rows: list[dict[str, Any]]) -> list[tuple[str, float | None, float | None]]:
    return [(row["text"], row.get("start"), row.get("end")) for row in rows]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"offset": 0.5, "duration": 1.0}, {"offset": 2.0, "duration": 1.5}),
        ({"start": 0.5, "end": 1.5}, {"start": "2.0", "end": "3.5"}),
        ({"start_time": "0:00.5", "end_time": "00:00:01,5"}, {"start_time": "00:02", "end_time": "3,5"}),
        ({"begin_time": 0.5, "end_time": 1.5}, {"begin_time": 2, "end_time": 3.5}),
        ({"start_ms": 500, "end_ms": 1500}, {"start_ms": 2000, "end_ms": 3500}),
        ({"offset_ms": 500, "duration_ms": 1000}, {"offset_ms": "2000", "duration_ms": "1500"}),
        ({"segment_start": 0.5, "segment_end": 1.5}, {"segment_start": 2.0, "segment_end": 3.5}),
        ({"start": 0.5, "stop": 1.5}, {"start": 2.0, "stop": 3.5}),
        ({"onset": 0.5, "offset": 1.5}, {"onset": 2.0, "offset": 3.5}),
        ({"Start Time (s)": 0.5, "End Time (s)": 1.5}, {"Start Time (s)": 2.0, "End Time (s)": 3.5}),
        ({"startTime": 0.5, "endTime": 1.5}, {"startTime": 2.0, "endTime": 3.5}),
        ({"start[ms]": 500, "end[ms]": 1500}, {"start[ms]": 2000, "end[ms]": 3500}),
        ({"xmin": 0.5, "xmax": 1.5}, {"xmin": 2.0, "xmax": 3.5}),
    ],
)
def test_a_part_of_a_file_is_a_part_of_a_file(tmp_path: Path, fetched: Any, one: Any, two: Any) -> None:
    write_audio(tmp_path / "talk.wav", seconds=6)
    rows = [{"audio_filepath": "talk.wav", "text": name, **times} for name, times in (("one", one), ("two", two))]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))
    assert parts(got["train"]) == [("one", 0.5, 1.5), ("two", 2.0, 3.5)]
    assert got["rejected"] == []


def test_an_end_that_is_not_said_is_the_files(tmp_path: Path, fetched: Any) -> None:
    write_audio(tmp_path / "talk.wav", seconds=4)
    rows = [{"audio": "talk.wav", "text": "a", "end": 1.0}, {"audio": "talk.wav", "text": "b", "start": 1.0}]
    assert parts(fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))["train"]) == [
        ("a", 0.0, 1.0),
        ("b", 1.0, None),
    ]


@pytest.mark.parametrize("unread", ["length", "til", "end_of_it", None])
def test_a_start_without_an_end_does_not_take_the_next_sentences_too(tmp_path: Path, fetched: Any, unread: Any) -> None:
    """The first sentence begins at 0 and would be the whole recording."""
    write_audio(tmp_path / "talk.wav", seconds=4)
    rows = [{"audio": "talk.wav", "text": f"sentence {n}", "start": n, unread or "note": n + 1} for n in range(4)]
    path = write_lines(tmp_path / "t.jsonl", rows)
    with pytest.raises(BadInput, match=r"row 1: start without an end: .* call that column end or duration"):
        fetched(TRAIN_JSONL=path)


def test_starts_that_are_all_nought_are_the_whole_recordings(tmp_path: Path, fetched: Any) -> None:
    for name in "abc":
        write_audio(tmp_path / f"{name}.wav", seconds=1)
    rows = [
        {"audio": f"{name}.wav", "text": name, "offset": start}
        for name, start in zip("abc", (0, 0.0, "0.00"), strict=True)
    ]
    assert parts(fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))["train"]) == [
        (name, None, None) for name in "abc"
    ]


def test_times_of_the_recording_that_a_clip_was_cut_from_are_not_the_clips(tmp_path: Path, fetched: Any) -> None:
    """Parliament corpora keep a sentence's place in the meeting beside a file that holds the sentence alone."""
    write_audio(tmp_path / "a.wav", seconds=2.0)
    write_audio(tmp_path / "b.flac", seconds=3.0)
    rows = [
        {"audio": "a.wav", "text": "a", "start_time": 813.2, "end_time": 815.2},
        {"audio": "b.flac", "text": "b", "start_time": 0.0, "end_time": 3.02},
    ]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))
    assert parts(got["train"]) == [("a", None, None), ("b", None, None)]


@pytest.mark.parametrize("value", [2.0, "2.0", 2000, 32000, 2.1])
def test_a_duration_that_is_the_recordings_own_changes_nothing(tmp_path: Path, fetched: Any, value: Any) -> None:
    write_audio(tmp_path / "a.wav", seconds=2.0)
    rows = [{"audio": "a.wav", "text": "a", "duration": value}]
    assert parts(fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))["train"]) == [("a", None, None)]


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ({"start": 3.0, "end": 5.5}, "start and end are not in the recording"),
        ({"offset": 1500, "duration": 500}, "start and end are not in the recording"),
        ({"start": 9}, "start and end are not in the recording"),
        ({"start": 2.0, "end": 1.0}, "start and end are no part"),
        ({"offset": 1.0, "duration": 0}, "start and end are no part"),
        ({"start": "soon", "end": 2}, "start is no time"),
        ({"start": -1, "end": 2}, "start is no time"),
        ({"start": 0, "end": [2]}, "end is no time"),
        ({"duration": 1.2}, "duration is not that of the recording"),
        ({"duration": 7.5}, "duration is not that of the recording"),
    ],
)
def test_times_that_cannot_be_are_refused_by_row(tmp_path: Path, fetched: Any, times: Any, reason: str) -> None:
    write_audio(tmp_path / "a.wav", seconds=4.0)
    write_audio(tmp_path / "b.wav", seconds=1.0)
    rows = [{"audio": "a.wav", "text": "a", **times}, {"audio": "b.wav", "text": "b"}]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))
    assert [row["text"] for row in got["train"]] == ["b"]
    assert [(row["row"], row["reason"]) for row in got["rejected"]] == [(1, reason)]


def test_rows_that_name_one_file_without_a_place_are_refused(tmp_path: Path, fetched: Any) -> None:
    write_audio(tmp_path / "talk.wav", seconds=4)
    write_audio(tmp_path / "b.wav", seed=1)
    rows = [{"audio": "talk.wav", "text": "first"}, {"audio": "b.wav", "text": "b"}]
    rows += [{"audio": "./talk.wav", "text": "second"}, {"audio": "b.wav", "text": "B!"}]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))
    assert [row["text"] for row in got["train"]] == ["b", "B!"], "a sentence that is listed twice is no contradiction"
    assert [(row["row"], row["reason"]) for row in got["rejected"]] == [
        (1, "one recording with several texts"),
        (3, "one recording with several texts"),
    ]
    assert "row 3" in got["rejected"][0]["detail"] and "row 1" in got["rejected"][1]["detail"]


def test_one_file_with_other_texts_for_training_and_validation_is_refused_in_both(tmp_path: Path, fetched: Any) -> None:
    for name in "abc":
        write_audio(tmp_path / f"{name}.wav")
    train = write_lines(tmp_path / "t.jsonl", [{"audio": "a.wav", "text": "a"}, {"audio": "b.wav", "text": "b"}])
    other = write_lines(tmp_path / "v.jsonl", [{"audio": "a.wav", "text": "z"}, {"audio": "c.wav", "text": "c"}])
    got = fetched(TRAIN_JSONL=train, VALIDATION_JSONL=other)
    assert [row["text"] for row in got["train"] + got["validation"]] == ["b", "c"]
    assert got["counts"]["train"] == got["counts"]["validation"] == 1


def test_when_all_rows_name_one_file_nothing_is_trained(tmp_path: Path, fetched: Any) -> None:
    write_audio(tmp_path / "a.wav")
    rows = [{"audio": "a.wav", "text": str(number)} for number in range(30)]
    with pytest.raises(BadInput, match=r"t\.jsonl row 1: one recording with several texts.*start and end") as caught:
        fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))
    assert "\n" not in str(caught.value)


def test_hours_are_counted_by_the_parts(tmp_path: Path, fetched: Any) -> None:
    write_audio(tmp_path / "talk.wav", seconds=10)
    rows = [{"audio": "talk.wav", "text": str(n), "offset": n, "duration": 0.9} for n in range(8)]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows), MAX_HOURS=3.0 / 3600)
    assert len(got["train"]) == 3


def test_three_rows_are_printed_as_understood(tmp_path: Path, fetched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write_audio(tmp_path / "set" / "talk.wav", seconds=5)
    rows = [
        {
            "audio": "talk.wav",
            "text": f"Sentence {n}.",
            "start": n,
            "end": n + 0.5,
            "speaker": "Åse",
            "language": "Hausa",
        }
        for n in range(5)
    ]
    fetched(TRAIN_JSONL=write_lines(tmp_path / "set" / "t.jsonl", rows))
    shown = [line for line in capsys.readouterr().out.splitlines() if "text: Sentence" in line]
    assert len(shown) == 3
    assert shown[1].startswith("[fetch] row 3: ") and shown[1].endswith(
        "set/talk.wav, 0.50 s (2 to 2.5 of 5.00 s), speaker åse, language Hausa, text: Sentence 2."
    )


@pytest.mark.parametrize("last", [{"start": 30.0, "end": 34.1}, {}])
def test_a_row_beside_parts_of_its_recording_is_not_all_of_it(tmp_path: Path, fetched: Any, last: Any) -> None:
    """A part that would be after the end, and is as long as the file, would be given the words of the others."""
    write_audio(tmp_path / "a.wav", seconds=4.0)
    write_audio(tmp_path / "b.wav", seconds=4.0, seed=1)
    rows = [{"audio": "a.wav", "text": "one", "start": 0.0, "end": 2.0}, {"audio": "a.wav", "text": "other", **last}]
    rows += [{"audio": "b.wav", "text": "b", "start": 30.0, "end": 34.1}]
    got = fetched(TRAIN_JSONL=write_lines(tmp_path / "t.jsonl", rows))
    assert parts(got["train"]) == [("one", 0.0, 2.0), ("b", None, None)]
    assert [(row["row"], row["reason"]) for row in got["rejected"]] == [(2, "one recording whole and in parts")]
