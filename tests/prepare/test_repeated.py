"""A text that is in the data twice, with recordings of very different length, is warned of; takes of a text are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from job import prepare
from job.core import files
from job.prepare.repeated import Texts
from tests.prepare.conftest import Make, voice

LONG = "A sentence of more than twenty letters, number"


def found(rows: list[tuple[str, str, float]], parts: int = 1) -> list[int]:
    """Positions of the rows (speaker, text, seconds) that are warned of."""
    from job.text.letters import letters

    texts = Texts()
    for places in np.array_split(np.arange(len(rows)), parts):
        chosen = [rows[n] for n in places]
        texts.add(
            "train",
            pa.table(
                {
                    "position": pa.array(places, pa.int64()),
                    "reason": pa.nulls(len(chosen), pa.string()),
                    "speaker": pa.array([speaker for speaker, _, _ in chosen], pa.string()),
                    "text": pa.array([text for _, text, _ in chosen], pa.string()),
                    "letters": pa.array([letters(text) for _, text, _ in chosen], pa.float64()),
                    "heard": pa.array([seconds for _, _, seconds in chosen], pa.float64()),
                }
            ),
        )
    return texts.compare().position.tolist()


def corpus(count: int = 60, speaker: str = "ada") -> list[tuple[str, str, float]]:
    return [(speaker, f"{LONG} {n}.", 3.0 + n / 30) for n in range(count)]


@pytest.mark.parametrize("parts", [1, 3, 60])
@pytest.mark.parametrize("pasted", [(4, 50), (59, 0), (20, 58)])
def test_a_text_pasted_into_another_row_is_warned_of_with_the_row_it_is_from(
    pasted: tuple[int, int], parts: int
) -> None:
    rows = corpus()
    there, source = pasted
    rows[there] = ("ada", f"{LONG.upper()}  {source}!", rows[there][2])  # written in another way all the same
    assert found(rows, parts) == sorted(pasted)


def test_takes_of_a_text_other_speakers_and_short_texts_are_no_reason() -> None:
    rows = corpus()
    rows[10] = ("ada", rows[11][1], rows[11][2] * 1.2)
    rows[50] = ("emil", rows[4][1], rows[50][2])
    rows += [("ada", "Yes.", 0.4), ("ada", "Yes!", 1.4)]
    assert found(rows) == []


def test_a_corpus_of_repeated_sentences_is_no_reason() -> None:
    """The same sentences in two moods: their lengths differ because they should."""
    assert found([*corpus(), *((who, text, 2 * seconds) for who, text, seconds in corpus())]) == []


@pytest.mark.parametrize("rows", [0, 1])
def test_there_is_nothing_to_compare(rows: int) -> None:
    assert found(corpus(rows)) == []


def test_the_rows_are_kept_and_said_by_the_stage(
    make: Make, wav: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = [1.5, 1.6, 2.4, 1.8]
    rows: list[dict[str, Any]] = [
        {"audio": wav(f"clip{n}", voice(seconds, seed=n)), "text": f"Words for the row {'abcd'[n]} that is so long."}
        for n, seconds in enumerate(lengths)
    ]
    rows[2]["text"] = rows[0]["text"]
    settings = make(rows)
    assert prepare.run(settings)["train_rows"] == 4
    assert files.read_json(settings.paths.quality)["warnings"]["repeated_text"]["examples"] == ["train-1", "train-3"]
    assert "2 rows kept with a warning: repeated_text" in capsys.readouterr().err
