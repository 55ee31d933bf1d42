"""What an earlier run encoded is not encoded again, wherever its row has moved to, and the dataset is the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from job import prepare
from job.core import files
from job.prepare import encode, shards, work
from job.prepare.earlier import Earlier
from tests.prepare.conftest import Make, complete, voice


@pytest.fixture
def rows(wav: Callable[..., str]) -> list[dict[str, Any]]:
    return [
        {"audio": wav(f"{n:02d}", voice(0.5 + n / 50, 24_000, seed=n)), "text": f"Row {n} of them."} for n in range(20)
    ]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the recordings that are decoded to be encoded; shards hold four lines."""
    found: list[str] = []
    real = encode.load

    def load(path: Path, *others: Any, **more: Any) -> Any:
        found.append(Path(path).stem)
        return real(path, *others, **more)

    monkeypatch.setattr(encode, "load", load)
    monkeypatch.setattr(shards, "LINES", 4)
    return found


def data_of(settings: Any) -> dict[str, bytes]:
    return {
        str(path.relative_to(settings.paths.prepared)): path.read_bytes()
        for path in sorted(settings.paths.prepared.rglob("*.*"))
    }


def again(settings: Any, rows: list[dict[str, Any]]) -> None:
    files.write_jsonl(settings.paths.manifest("train"), complete(rows, "train"))
    prepare.run(settings)


def test_ten_rows_among_others_are_the_only_ones_encoded(
    make: Make, rows: list[dict[str, Any]], decoded: list[str]
) -> None:
    """In front, in the middle, behind, with others removed: only the new are decoded; the same bytes as anew."""
    settings = make(rows[3:])
    prepare.run(settings)
    assert len(decoded) == 17 and not (settings.paths.encoding / "earlier").exists()
    decoded.clear()
    changed = [*rows[:2], *rows[3:9], rows[2], *rows[10:]]
    again(settings, changed)
    assert sorted(decoded) == ["00", "01", "02"]
    assert not (settings.paths.encoding / "earlier").exists()
    anew = make(changed, work="anew")
    prepare.run(anew)
    assert data_of(anew) == data_of(settings)


def test_another_text_or_recording_is_another_row(
    make: Make, rows: list[dict[str, Any]], decoded: list[str], wav: Any
) -> None:
    """A corrected text, a recording that has changed under its name, a rejected row, and all under other settings."""
    broken = {"audio": str(Path(rows[0]["audio"]).with_name("none.wav")), "text": "Not there."}
    settings = make([*rows[:8], broken])
    prepare.run(settings)
    decoded.clear()
    wav("01", voice(0.7, 24_000, seed=99))
    changed = [rows[9], {**rows[0], "text": "Corrected."}, *rows[1:8], broken]
    again(settings, changed)
    assert sorted(decoded) == ["00", "01", "09", "none"]
    decoded.clear()
    again(settings.model_copy(update={"max_seconds": 19.0}), changed)
    assert len(decoded) == 10


def test_a_run_that_is_killed_while_shards_move_loses_none(
    make: Make, rows: list[dict[str, Any]], decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after any number of shards: what is encoded by all runs together are the new rows."""
    dice = random.Random(0)
    settings = make(rows[2:])
    prepare.run(settings)
    decoded.clear()
    real = work.Shards.store
    left = [0]

    def store(self: Any, *others: Any) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        real(self, *others)

    monkeypatch.setattr(work.Shards, "store", store)
    files.write_jsonl(settings.paths.manifest("train"), complete(rows, "train"))
    for _ in range(3):
        left[0] = dice.randint(0, 2)
        with pytest.raises(KeyboardInterrupt):
            prepare.run(settings)
    left[0] = 100
    prepare.run(settings)
    assert set(decoded) == {"00", "01"}
    anew = make(rows, work="anew")
    prepare.run(anew)
    assert data_of(anew) == data_of(settings)


def test_damaged_shards_are_not_taken_over(
    tmp_path: Path, make: Make, rows: list[dict[str, Any]], decoded: list[str]
) -> None:
    settings = make(rows[1:])
    prepare.run(settings)
    decoded.clear()
    path = settings.paths.encoding / "train-000001.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again(settings, rows)
    assert sorted(decoded) == ["00", *(f"{n:02d}" for n in range(5, 9))]
    assert Earlier(tmp_path / "nothing").find(b"0" * 16) is None
