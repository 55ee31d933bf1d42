"""Reciting: a checkpoint that knows its rows by heart scores all, and every kind of mistake costs exactly its share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from job.evaluate.recite import Recital, format_table, recite, total
from tests.evaluate.conftest import recordings

Talking = tuple[Path, list[dict[str, Any]]]


def cpu():
    import torch

    return torch.device("cpu")


def test_what_a_checkpoint_says_alone_it_recites_in_a_batch(talking: Talking):
    directory, rows = talking
    recitals = recite(directory, rows, device=cpu(), batch_size=3)
    assert [one.text for one in recitals] == [row["text"] for row in rows]
    assert [one.frames for one in recitals] == [len(row["codes"]) for row in rows]
    assert all(one.match == 1.0 and one.right_stop for one in recitals)
    assert (total(recitals).match, total(recitals).right_stops) == (1.0, 3)


def test_wrong_codes_and_wrong_lengths_cost_their_share(talking: Talking):
    directory, rows = talking
    codebooks = len(rows[0]["codes"][0])
    one_off = [list(frame) for frame in rows[0]["codes"]]
    one_off[1][codebooks - 1] ^= 1
    shorter = rows[1]["codes"][:-1]
    longer = [*rows[2]["codes"], [0] * codebooks]
    changed = [{**row, "codes": codes} for row, codes in zip(rows, (one_off, shorter, longer), strict=True)]
    first, second, third = recite(directory, changed, device=cpu())
    assert (first.compared - first.matched, first.right_stop) == (1, True)
    assert (second.compared - second.matched, second.right_stop) == (codebooks, False)
    assert (third.compared - third.matched, third.right_stop) == (codebooks, False)
    assert second.stopped_by_eos and third.stopped_by_eos


def test_the_layout_is_the_one_that_was_asked_for(talking: Talking):
    """A voice that knows its sentences in one layout does not score in the other."""
    directory, rows = talking
    other = recite(directory, rows, device=cpu(), layout="streaming")
    assert total(other).match < 0.9
    assert {one.layout for one in other} == {"streaming"}


def test_a_language_that_the_checkpoint_lacks_is_said_as_auto(talking: Talking):
    directory, rows = talking
    row = {**rows[0], "language": "hausa"}
    assert recite(directory, [row], device=cpu())[0].language == "Auto"


@pytest.mark.slow
def test_never_stopping_is_no_right_stop_even_where_all_frames_agree(endless: Path):
    rows = [{**row, "codes": row["codes"][:6]} for row in recordings(endless, ["Nine."], max_new_tokens=8)]
    (one,) = recite(endless, rows, device=cpu())
    assert not one.stopped_by_eos and not one.right_stop
    assert one.matched == 6 * len(rows[0]["codes"][0])
    assert one.said_frames == 15


def test_an_unknown_layout_is_a_mistake_of_the_caller(talking: Talking):
    with pytest.raises(ValueError, match="layout"):
        recite(talking[0], talking[1], device=cpu(), layout="both")


def test_no_rows_recite_nothing():
    assert (total([]).rows, total([]).match) == (0, 0.0)


def test_the_table_shows_every_row_and_does_not_round_up_to_perfect():
    shared: dict[str, Any] = {"speaker": "a", "language": "Auto", "layout": "streaming"}
    recitals = [
        Recital("Short.", **shared, frames=10, said_frames=10, matched=160, compared=160, stopped_by_eos=True),
        Recital("你" * 40, **shared, frames=1000, said_frames=1000, matched=15999, compared=16000, stopped_by_eos=True),
        Recital("No end", **shared, frames=5, said_frames=15, matched=0, compared=240, stopped_by_eos=False),
    ]
    lines = format_table(recitals).splitlines()
    assert len(lines) == 5
    assert "100.0 %" in lines[1] and "right" in lines[1]
    assert "99.9 %" in lines[2] and "…" in lines[2]
    assert "never" in lines[3]
    assert "3 sentences: 98.5 %" in lines[4] and "2 stopped at the right frame" in lines[4]
