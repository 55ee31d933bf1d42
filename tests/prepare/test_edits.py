"""edits.jsonl: what a person decided about single rows is done by the next run, and nothing is encoded again for it."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from job import prepare
from job.config.settings import Settings
from job.core import files
from job.core.errors import BadInput
from job.dataset.prepared import read_split
from tests.prepare.conftest import Make


def decide(settings: Settings, *lines: dict[str, Any]) -> None:
    settings.paths.edits.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_marked_rows_go_corrected_texts_stay_and_nothing_is_encoded_again(
    make: Make, clips: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A later line about a row takes the place of an earlier one; a row that there is not is said in one line."""
    settings = make([{key: row[key] for key in ("audio", "text", "speaker", "language")} for row in clips[:4]])
    prepare.run(settings)
    before = {path: path.stat().st_mtime_ns for path in settings.paths.encoding.glob("train-*")}
    assert before
    decide(
        settings,
        {"id": "train-1", "text": "Not this."},
        {"id": "train-1", "text": "What is really said in it."},
        {"audio": clips[2]["audio"], "bad": True},
        {"id": "nobody", "bad": True},
    )
    prepare.run(settings)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    table = read_split(settings.paths, "train")
    assert table.column("id").to_pylist() == ["train-1", "train-2", "train-4"]
    assert table.column("text").to_pylist()[0] == "What is really said in it."
    (rejected,) = files.read_jsonl(settings.paths.rejected)
    assert (rejected["id"], rejected["reason"]) == ("train-3", "marked_bad")
    assert "line 3 of data/edits.jsonl" in rejected["detail"]
    assert "one edit names no row of the data, the first in line 4 (nobody)" in capsys.readouterr().err

    settings.paths.edits.unlink()
    prepare.run(settings)
    assert read_split(settings.paths, "train").column("text").to_pylist() == [row["text"] for row in clips[:4]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: no JSON"),
        ("[]", "names no row"),
        ('{"bad": true}', "names no row"),
        ('{"id": "1"}', "says nothing of the row"),
        ('{"id": "1", "bad": "yes"}', "bad must be true or false"),
        ('{"id": "1", "text": " "}', "text words in quotation marks"),
        ('{"audio": "a.wav", "start": "0", "bad": true}', "start must be a number"),
    ],
)
def test_a_line_that_is_not_understood_is_named(make: Make, line: str, said: str) -> None:
    settings = make([{"text": "One."}])
    settings.paths.edits.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(BadInput, match=said):
        prepare.run(settings)


def test_a_row_is_named_by_as_much_of_its_path_as_it_takes(
    make: Make, clips: list[dict[str, Any]], tmp_path: Path
) -> None:
    """As the page of the data shows it, with marks in either form; a line separator in a text is no end of a line."""
    rows = []
    for clip, folder in zip(clips[:3], ("a", "b", "c"), strict=True):
        path = tmp_path / folder / unicodedata.normalize("NFD", "blå.flac")
        path.parent.mkdir()
        shutil.copy(clip["audio"], path)
        rows.append({"audio": str(path), "text": clip["text"]})
    settings = make(rows)
    decide(settings, {"audio": "b/bl\u00e5.flac", "text": "Said\u2028so."}, {"audio": "c\\bl\u00e5.flac", "bad": True})
    raw = settings.paths.edits.read_text(encoding="utf-8")
    settings.paths.edits.write_text(raw.replace("\\u2028", "\u2028").replace("\n", "\r\n"), encoding="utf-8")
    prepare.run(settings)
    assert read_split(settings.paths, "train").column("text").to_pylist() == [clips[0]["text"], "Said\u2028so."]

    decide(settings, {"audio": "bl\u00e5.flac", "bad": True})
    with pytest.raises(BadInput, match=r"line 1: blå\.flac is the recording of several rows .*write more of its path"):
        prepare.run(settings)


def test_a_text_is_never_given_to_all_parts_of_a_recording(make: Make, clips: list[dict[str, Any]]) -> None:
    audio = clips[5]["audio"]
    parts = [{"audio": audio, "start": 0.0, "end": 1.1, "text": "We walked."}]
    parts += [{"audio": audio, "start": 1.1, "end": 2.2, "text": "It was dark."}, {**clips[3]}]
    settings = make([{key: row[key] for key in ("audio", "text", "start", "end") if key in row} for row in parts])
    decide(settings, {"audio": Path(audio).name, "text": "What is really said."})
    with pytest.raises(
        BadInput, match=r"several rows \(ids train-1 and train-2\); give the id or the start of the one"
    ):
        prepare.run(settings)
    decide(settings, {"audio": Path(audio).name, "bad": True})
    prepare.run(settings)
    assert read_split(settings.paths, "train").column("id").to_pylist() == ["train-3"]
