"""The promises of the probe's rules: which rows are said, what is wrong with codes, and how checkpoints are ranked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.train import probe
from job.train.probe import Probe
from job.train.probe_rules import MOST_FRAMES, choose, limit, problems, rank, repetition

LONG = 40  # frames of a recording for which every fault is a fault


# The rank


def test_a_checkpoint_that_stops_beats_a_slightly_lower_loss():
    assert rank(4.30, 0.0) < rank(4.25, 0.5) < rank(4.25, 1.0)
    assert rank(4.80, 0.0) > rank(4.25, 1.0), "and not a much lower one"


@given(st.floats(0, 30), st.floats(0, 30), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0]))
def test_rank_rises_with_loss_and_penalty(loss, other, penalty, more):
    """Among equal penalties the loss alone decides; a larger penalty never helps."""
    assert (rank(loss, penalty) < rank(other, penalty)) == (loss < other)
    assert (rank(loss, max(penalty, more)) >= rank(loss, penalty)) and rank(loss) < rank(float("nan"))
    assert rank(float("inf"), penalty) == rank(float("nan"))


# Which sentences


@given(st.lists(st.integers(0, 400), max_size=60), st.integers(1, 6), st.integers(0, 5))
def test_chosen_rows_are_few_short_different_and_fixed(frames, count, seed):
    rows = choose(frames, count, seed)
    assert rows == choose(frames, count, seed)
    eligible = [n for n in frames if n and limit(n) <= MOST_FRAMES // count]
    assert len(rows) == len(set(rows)) == min(count, len(eligible))
    assert sum(limit(frames[row]) for row in rows) <= MOST_FRAMES
    assert [frames[row] for row in rows] == sorted(frames[row] for row in rows)


def test_chosen_rows_are_spread_over_lengths():
    frames = [*range(4, 80)]
    chosen = {seed: [frames[row] for row in choose(frames, 2, seed)] for seed in range(20)}
    assert all(a < 42 <= b for a, b in chosen.values())
    assert len({tuple(pair) for pair in chosen.values()}) > 10, "another seed chooses others"


# What is wrong with codes


def slow_repetition(codebook):
    """The longest stretch by trying all of them."""
    best = 0
    for period in range(1, len(codebook) // 4 + 1):
        same = codebook[period:] == codebook[:-period]
        for start, end in itertools.combinations(range(len(same) + 1), 2):
            stretch = same[start:end].sum() + period
            if same[start:end].mean() >= 0.8 and stretch >= max(25, 4 * period):
                best = max(best, stretch)
    return best


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=30),
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.integers(0, 45),
    st.lists(st.integers(0, 3), max_size=10),
)
def test_repetition_against_its_definition(before, cycle, times, after):
    codebook = np.asarray([*before, *(cycle * times)[:45], *after], dtype=np.int64)
    frames, period = repetition(codebook)
    assert frames == slow_repetition(codebook)
    assert (period > 0) == (frames > 0)


def speech(frames, seed=0):
    return np.random.default_rng(seed).integers(0, 2048, (frames, 16))


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(0, 1000))
def test_speech_is_no_repetition_and_has_no_problem(frames, seed):
    said = speech(frames, seed)
    assert repetition(said[:, 0]) == (0, 0)
    assert problems(said, True, speech(frames, seed + 1)) == ()


def test_never_stopping_is_heard():
    assert problems(speech(90), False, speech(LONG, 1)) == ("never stops",)


def test_silence_is_heard():
    """One code of codebook 0 held, whatever the codebooks above it do, and with a slip now and then."""
    said = speech(60)
    said[10:50, 0] = 7
    said[[20, 35], 0] = 8
    (problem,) = problems(said, True, speech(LONG, 1))
    assert problem == "one code held for 36 frames"


def test_a_loop_is_heard():
    said = speech(70)
    said[10:66] = np.tile(said[3:10], (8, 1))
    (problem,) = problems(said, True, speech(LONG, 1))
    assert problem == "a cycle of 7 frames repeated for 63 frames"


def test_a_pause_of_the_recording_is_no_problem():
    recorded = speech(80, 1)
    recorded[10:40, 0] = 7
    said = speech(80)
    said[10:60, 0] = 7
    assert problems(said, True, recorded) == ()
    assert problems(said, True, speech(80, 1)) != ()


def test_speech_that_is_far_too_short_is_heard():
    assert problems(speech(13), True, speech(LONG, 1)) == ("13 frames instead of about 40",)
    assert problems(speech(14), True, speech(LONG, 1)) == ()
    assert problems(speech(0), True, speech(LONG, 1)) == ("0 frames instead of about 40",)


@pytest.mark.parametrize(
    ("frames", "stopped", "found"),
    [(21, True, ()), (22, True, ("never stops",)), (22, False, ("never stops",)), (60, True, ("never stops",))],
)
def test_a_sentence_is_judged_by_its_own_limit(frames, stopped, found):
    """Beside a longer sentence, generation continues beyond it."""
    sentence = probe.Sentence("Nine.", "one", "auto", None, False, speech(6, 1))
    finding = Probe._finding(sentence, speech(frames), stopped)
    assert (finding.frames, finding.problems) == (min(frames, 22), found)
