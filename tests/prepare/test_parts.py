"""A row that is a part of a recording trains on exactly that part: the same codes as from a file that was cut there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from job.core import files
from job.dataset.prepared import read_split
from job.demo import clips_directory
from job.prepare.stage import prepare
from tests.prepare.conftest import Make


def talk(path: Path, rate: int, channels: int = 1) -> list[tuple[float, float]]:
    """Write the embedded clips one after the other as one recording; returns where each is, in seconds."""
    import soxr

    pieces, places, at = [], [], 0
    for clip in sorted(clips_directory().glob("*.flac"))[:6]:
        samples, source = soundfile.read(clip, dtype="float32")
        piece = soxr.resample(samples, source, rate)
        places.append((at / rate, (at + len(piece)) / rate))
        at += len(piece)
        pieces.append(piece)
    mono = np.concatenate(pieces)
    soundfile.write(path, np.stack([mono] * channels, axis=1), rate)
    return places


def codes_of(settings: Any) -> dict[str, list[list[int]]]:
    table = read_split(settings.paths, "train")
    return dict(zip(table["text"].to_pylist(), table["codes"].to_pylist(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "rate", "channels"), [("wav", 24_000, 1), ("flac", 44_100, 2), ("ogg", 48_000, 1)])
@pytest.mark.parametrize("workers", [0, 3])
def test_parts_of_a_file_are_encoded_as_if_they_had_been_cut(
    tmp_path: Path, make: Make, ending: str, rate: int, channels: int, workers: int
) -> None:
    whole = tmp_path / f"talk.{ending}"
    places = talk(whole, rate, channels)
    decoded, _ = soundfile.read(whole, always_2d=True, dtype="float32")
    rows, cut = [], []
    for number, (start, end) in enumerate(places):
        text = f"Sentence number {number}."
        rows.append({"audio": str(whole), "text": text, "start": start, "end": end})
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, decoded[round(start * rate) : round(end * rate)], rate, subtype="FLOAT")
        cut.append({"audio": str(path), "text": text})
    parts, pieces = make(rows, work="parts", num_workers=workers), make(cut, work="cut")
    prepare(parts)
    prepare(pieces)
    assert len(codes_of(parts)) == len(places)
    assert codes_of(parts) == codes_of(pieces)


def test_a_part_that_is_not_there_leaves_its_row_out(tmp_path: Path, make: Make) -> None:
    whole = tmp_path / "talk.wav"
    places = talk(whole, 24_000)
    rows = [{"audio": str(whole), "text": "One.", "start": start, "end": end} for start, end in places]
    rows.append({"audio": str(whole), "text": "None such.", "start": 500.0, "end": 502.0})
    settings = make(rows, quality_gate="warn")
    prepare(settings)
    rejected = list(files.read_jsonl(settings.paths.rejected))
    assert [(row["row"], row["reason"]) for row in rejected] == [(len(rows), "no_such_part")]


def test_another_place_in_the_file_is_another_recording(tmp_path: Path, make: Make) -> None:
    """A rerun with the times corrected must not keep the codes of the old ones."""
    whole = tmp_path / "talk.wav"
    places = talk(whole, 24_000)
    rows = [{"audio": str(whole), "text": f"{n}.", "start": s, "end": e} for n, (s, e) in enumerate(places)]
    settings = make(rows)
    prepare(settings)
    before = codes_of(settings)
    rows[2] |= {"start": places[2][0] + 0.25}
    settings = make(rows)
    prepare(settings)
    after = codes_of(settings)
    assert [text for text in after if after[text] != before[text]] == ["2."]
