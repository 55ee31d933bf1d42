"""What may be relied on when rows are held out for validation."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from job.prepare.split import held_out, rank

ROWS = st.lists(st.tuples(st.uuids().map(str), st.sampled_from("abcd")), unique_by=lambda row: row[0], max_size=120)
FRACTION = st.none() | st.floats(0, 0.99)
MOST = st.none() | st.integers(1, 20)


def choose(
    rows: list[tuple[str, str, int]], seed: int = 0, fraction: float | None = 0.1, most: int | None = None
) -> list[bool]:
    """Which rows of (text, speaker, hash of the codes) are held out."""
    names = sorted({speaker for _, speaker, _ in rows})
    ranks = np.array([rank(seed, text) for text, _, _ in rows], dtype=np.uint64)
    digests = np.array([digest for _, _, digest in rows], dtype=np.uint64)
    speakers = np.array([names.index(speaker) for _, speaker, _ in rows], dtype=np.int32)
    return list(held_out(ranks, digests, speakers, fraction=fraction, most=most))


def split(
    rows: list[tuple[str, str]], seed: int = 0, fraction: float | None = 0.1, most: int | None = None
) -> set[str]:
    """Texts that are held out of rows of (text, speaker), each with a recording of its own."""
    chosen = choose([(text, speaker, n) for n, (text, speaker) in enumerate(rows)], seed, fraction, most)
    return {text for (text, _), held in zip(rows, chosen, strict=True) if held}


@given(ROWS, st.integers(0, 1000), FRACTION, MOST)
def test_the_share_is_rounded_down_and_capped(
    rows: list[tuple[str, str]], seed: int, fraction: float | None, most: int | None
) -> None:
    share = fraction if fraction is not None else 0.05 * (len(rows) >= 50)
    chosen = split(rows, seed, fraction, most)
    assert len(chosen) <= share * len(rows) + 1e-6
    assert most is None or len(chosen) <= most
    assert chosen <= {row[0] for row in rows}


@given(ROWS, st.integers(0, 1000), FRACTION)
def test_no_speaker_is_left_without_training_rows(
    rows: list[tuple[str, str]], seed: int, fraction: float | None
) -> None:
    chosen = split(rows, seed, fraction)
    assert {row[1] for row in rows if row[0] not in chosen} == {row[1] for row in rows}


@given(ROWS, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows: list[tuple[str, str]], seed: int, random) -> None:
    single = [(row_id, "a") for row_id, _ in rows]
    shuffled = list(single)
    random.shuffle(shuffled)
    assert split(single, seed) == split(shuffled, seed)


@given(ROWS, ROWS, st.integers(0, 1000))
def test_new_rows_only_push_old_ones_back_into_training_at_the_margin(
    rows: list[tuple[str, str]], more: list[tuple[str, str]], seed: int
) -> None:
    """Of the old rows, the ones held out before and after are the same but for where the ranking stops."""
    old = [(row_id, "a") for row_id, _ in rows]
    known = {row_id for row_id, _ in old}
    new = old + [(row_id, "a") for row_id, _ in more if row_id not in known]
    before, after = split(old, seed), split(new, seed) & known
    assert before <= after or after <= before


def test_the_default_holds_out_five_percent_from_fifty_rows_on() -> None:
    def rows(count: int) -> list[tuple[str, str]]:
        return [(f"r{n}", "a") for n in range(count)]

    assert [len(split(rows(n), fraction=None)) for n in (0, 1, 49, 50, 59, 60, 100, 1000)] == [0, 0, 0, 2, 2, 3, 5, 50]


def test_the_seed_chooses_other_rows() -> None:
    rows = [(f"r{n}", "a") for n in range(200)]
    assert split(rows, seed=1) != split(rows, seed=2)
    assert split(rows, seed=1) == split(rows, seed=1)


def test_a_large_share_still_leaves_one_row_of_each_speaker() -> None:
    rows = [("x", "rare"), *((f"r{n}", "common") for n in range(99))]
    chosen = split(rows, fraction=0.98)
    left = Counter(speaker for row_id, speaker in rows if row_id not in chosen)
    assert left["rare"] == 1
    assert left["common"] >= 1


@given(
    st.lists(st.tuples(st.sampled_from("ABCDEFGHIJ"), st.sampled_from("xy"), st.integers(0, 40)), max_size=60),
    st.integers(0, 1000),
    FRACTION,
    MOST,
)
def test_no_recording_is_on_both_sides(
    rows: list[tuple[str, str, int]], seed: int, fraction: float | None, most: int | None
) -> None:
    chosen = choose(rows, seed, fraction, most)
    share = fraction if fraction is not None else 0.05 * (len(rows) >= 50)
    wanted = min(int(share * len(rows) + 1e-9), most or len(rows))
    assert sum(chosen) <= wanted
    held = [row for row, here in zip(rows, chosen, strict=True) if here]
    kept = [row for row, here in zip(rows, chosen, strict=True) if not here]
    assert not {row[2] for row in held} & {row[2] for row in kept}
    assert {row[1] for row in kept} == {row[1] for row in rows}


def test_takes_of_a_sentence_by_several_speakers_are_held_out_together() -> None:
    """Two voices read the same hundred sentences: the loss of one that the other is trained on would say nothing."""
    rows = [(f"Sentence {n}.", voice, 2 * n + k) for n in range(100) for k, voice in enumerate("ab")]
    rows += [("  sentence 7. ", "a", 999)]
    chosen = choose(rows, fraction=None)
    held = {text.strip().casefold() for (text, _, _), here in zip(rows, chosen, strict=True) if here}
    kept = {text.strip().casefold() for (text, _, _), here in zip(rows, chosen, strict=True) if not here}
    assert 8 <= sum(chosen) <= 10
    assert not held & kept


def test_a_recording_that_is_listed_twice_is_on_one_side() -> None:
    rows = [(f"Sentence {n % 50}.", "a", n % 50) for n in range(100)]
    rows += [("Sentence 0, transcribed again.", "a", 0)]
    for seed in range(20):
        chosen = choose(rows, seed, fraction=0.3)
        held = {digest for (_, _, digest), here in zip(rows, chosen, strict=True) if here}
        kept = {digest for (_, _, digest), here in zip(rows, chosen, strict=True) if not here}
        assert held and not held & kept


def test_where_every_text_has_too_many_rows_other_takes_are_held_out() -> None:
    rows = [(f"Word {n % 3}", "a", n) for n in range(60)]
    assert sum(choose(rows, fraction=0.1)) == 6
    assert choose(rows, 1, fraction=0.1) != choose(rows, 2, fraction=0.1)


def test_half_a_character_is_a_text_like_any_other():
    """Files hold lone surrogates, which UTF-8 has no bytes for: the rank differs, and nothing fails."""
    assert len({rank(0, text) for text in ("\ud83d", "\ude00", "\ud83d\ude00", "")}) == 4


def test_a_group_that_is_too_large_does_not_end_the_choice():
    """Smaller ones after it are still held out: with two texts of nine rows each first, single rows fill the share."""
    texts = sorted((f"text {n}" for n in range(40)), key=lambda text: rank(0, text))
    rows = [(text, "one", n) for n, text in enumerate([text for text in texts[:2] for _ in range(9)] + texts[2:])]
    chosen = choose(rows, fraction=8 / len(rows))
    assert [text for (text, _, _), held in zip(rows, chosen, strict=True) if held] == texts[2:10]
