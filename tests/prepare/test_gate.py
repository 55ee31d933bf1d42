"""Data that cannot make a voice is refused with exit code 3 and one line that says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from job import prepare
from job.core import files
from job.core.errors import DataRefused
from job.dataset.prepared import read_split
from job.prepare import quality_gate
from job.prepare.quality import Tally
from tests.prepare.conftest import Make, voice

REFERENCE = 3.0


def refused(settings: Any, says: str) -> None:
    with pytest.raises(DataRefused, match=says) as caught:
        prepare.run(settings)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert not settings.paths.prepared.exists()
    assert settings.paths.quality.is_file()
    assert settings.paths.quality_page.is_file()
    assert settings.paths.rejected.is_file()


@pytest.fixture
def reference(wav: Callable[..., str]) -> str:
    return wav("reference", voice(REFERENCE, seed=99))


def encoded(arrays: list[np.ndarray]) -> list[dict[str, Any]]:
    return [{"audio_codes": array.tolist()} for array in arrays]


def random_codes(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.integers(0, 2048, (12 + n, 16)) for n in range(count)]


def test_rows_that_all_share_one_recording_are_refused(make: Make, wav: Callable[..., str]) -> None:
    path = wav("same", voice(1.0))
    refused(make([{"audio": path}] * 3), "all 3 rows share the same codes")


def test_rows_that_mostly_repeat_each_other_are_refused(make: Make, reference: str) -> None:
    codes = random_codes(4)
    refused(
        make(encoded([*codes, *[codes[0]] * 5]), ref_audio_path=reference), "5 of 9 rows repeat the codes of another"
    )


def test_half_of_the_rows_repeated_is_let_through(make: Make, reference: str) -> None:
    codes = random_codes(4)
    settings = make(encoded([*codes, *codes]), ref_audio_path=reference)
    prepare.run(settings)
    figures = files.read_json(settings.paths.quality)
    assert (figures["duplicate_rows"], figures["problems"]) == (4, [])


def test_codes_that_never_change_are_refused(make: Make, reference: str) -> None:
    frame = np.arange(16)
    rows = encoded([np.tile(frame, (n, 1)) for n in (10, 20, 30)])
    refused(make(rows, ref_audio_path=reference), "every frame of all 3 rows has the same codes.*TOKENIZER_PATH")


def test_silent_recordings_are_refused(make: Make, wav: Callable[..., str]) -> None:
    rows = [{"audio": wav(f"silent{n}", np.zeros(24_000))} for n in range(3)]
    refused(make(rows, quality_gate="off"), "all 3 recordings are silent")


def test_nothing_left_is_refused_whatever_the_gate(make: Make, wav: Callable[..., str]) -> None:
    rows = [{"audio": wav("short", voice(0.1))}, {"audio": wav("silent", np.zeros(24_000))}]
    refused(make(rows, quality_gate="off"), "no training row is left of 2: too_short 1, silent 1")
    refused(make([], work="second", quality_gate="off"), "no training rows at all")


def test_more_unusable_rows_than_usable_ones_are_refused(make: Make, wav: Callable[..., str]) -> None:
    good = [{"audio": wav(f"good{n}", voice(1.0, seed=n))} for n in range(2)]
    bad = [{"audio": wav(f"short{n}", voice(0.1))} for n in range(3)]
    refused(make(good + bad), r"3 of 5 rows are unusable \(too_short 3\)")
    half = make(good + bad[:2], work="second")
    assert prepare.run(half)["train_rows"] == 2


def test_the_gate_can_warn_or_be_off(make: Make, wav: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"audio": wav("same", voice(1.0))}] * 3
    for gate, said in (("warn", True), ("off", False)):
        settings = make(rows, work=gate, quality_gate=gate)
        prepare.run(settings)
        assert len(read_split(settings.paths, "train")) == 3
        assert ("warning: all 3 rows share the same codes" in capsys.readouterr().err) is said


def test_a_refusal_keeps_the_data_of_an_earlier_run(make: Make, wav: Callable[..., str]) -> None:
    good = make([{"audio": wav(f"good{n}", voice(1.0, seed=n))} for n in range(2)])
    prepare.run(good)
    before = (good.paths.prepared / "train" / "00000.parquet").read_bytes()
    bad = make([{"audio": wav("silent", np.zeros(24_000))}])
    with pytest.raises(DataRefused):
        prepare.run(bad)
    assert (good.paths.prepared / "train" / "00000.parquet").read_bytes() == before


def test_where_every_text_is_shifted_the_line_says_so_and_not_only_what_the_first_row_has() -> None:
    tally = Tally(16, 2048, 12.5, 0)
    tally.mispaired = ["from row 1 on each text is about the recording one row after it"]
    for number in range(7):
        tally.refuse({"row": number, "reason": "wrong_words", "detail": "heard something else"})
    tally.close()
    with pytest.raises(DataRefused, match=r"no training row is left of 7: wrong_words 7; from row 1 on"):
        quality_gate.refuse_nothing_left(tally)
