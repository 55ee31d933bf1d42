"""The promises of the guards: pathological training stops with a reason, training that works is left alone."""

from __future__ import annotations

import json
import math
import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from job.core.errors import TrainingStopped
from job.train import guards
from job.train.guards import (
    FiniteGuard,
    Guards,
    LossGuard,
    Patience,
    SpikeGuard,
)

NAN, INF = float("nan"), float("inf")
LOSSES = st.floats(1e-6, 30.0)
NORMS = st.floats(1e-4, 1e4)


def by_heart(steps, start=15.8, end=7e-4):
    """A loss that falls as that of the embedded clips does: fast at first, then slowly, with a little noise."""
    fall = [start * (end / start) ** min(1.0, 1.4 * step / steps) for step in range(1, steps + 1)]
    return [loss * (1 + 0.2 * math.sin(7 * step)) for step, loss in enumerate(fall)]


def cosine(step, steps, peak=3e-3, warmup=20):
    if step <= warmup:
        return peak * (step - 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - 1 - warmup) / (steps - warmup)))


def feed(guard, losses, norm=1.0, rate=1e-3):
    for step, loss in enumerate(losses, start=1):
        guard.observe(step, loss, norm, rate)


# Losses that are not numbers


def test_a_skipped_step_is_not_taken_and_counted():
    guard = FiniteGuard()
    assert guard.admit(1, 3.0, 1.0)
    assert not guard.admit(2, NAN, 1.0)
    assert not guard.admit(3, 3.0, INF)
    assert guard.admit(4, 3.0, 1.0)
    assert guard.skipped == 2


def test_a_first_loss_that_is_no_number_stops_at_once():
    with pytest.raises(TrainingStopped, match="base model's weights or the data"):
        FiniteGuard().admit(1, NAN, 1.0)


def test_five_bad_steps_in_a_row_stop():
    guard = FiniteGuard()
    guard.admit(1, 3.0, 1.0)
    for step in range(2, 6):
        assert not guard.admit(step, 3.0, NAN)
    with pytest.raises(TrainingStopped, match=r"5 in a row.*LEARNING_RATE"):
        guard.admit(6, 3.0, NAN)


def test_one_bad_step_in_ten_stops_once_there_are_a_hundred():
    """Bad steps that never come five in a row do not go on for hours."""
    guard = FiniteGuard()
    with pytest.raises(TrainingStopped, match=r"10 of 100 steps.*LEARNING_RATE"):
        for step in range(1, 1000):
            guard.admit(step, NAN if step % 10 == 0 else 3.0, 1.0)


def test_one_bad_step_in_twenty_is_just_allowed():
    guard = FiniteGuard()
    for step in range(1, 401):
        guard.admit(step, NAN if step % 20 == 0 else 3.0, 1.0)
    with pytest.raises(TrainingStopped, match="21 of 401"):
        guard.admit(401, NAN, 1.0)


def test_one_bad_step_in_fifty_goes_on():
    guard = FiniteGuard()
    for step in range(1, 2001):
        assert guard.admit(step, NAN if step % 50 == 0 else 3.0, 1.0) == (step % 50 != 0)
    assert guard.skipped == 40


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=300))
def test_finite_guard_against_its_definition(steps):
    """Whatever comes: it stops exactly where the rules say, and admits exactly the finite steps before."""
    guard = FiniteGuard()
    for number, (loss_ok, norm_ok) in enumerate(steps, start=1):
        bad = [not (a and b) for a, b in steps[:number]]
        stops = (
            (number == 1 and not loss_ok)
            or (bad[-1] and len(bad) >= 5 and all(bad[-5:]))
            or (bad[-1] and number >= 100 and sum(bad) > 0.05 * number)
        )
        arguments = (number, 2.0 if loss_ok else NAN, 1.0 if norm_ok else INF)
        if stops:
            with pytest.raises(TrainingStopped):
                guard.admit(*arguments)
            return
        assert guard.admit(*arguments) is not bad[-1]
        assert guard.skipped == sum(bad)


# A loss of 0, a loss that stands still


@pytest.mark.parametrize("steps", [200, 400, 3000])
def test_learning_by_heart_is_left_alone(steps):
    """The demo and its like end at losses that print as 0.001 and less."""
    guard = LossGuard()
    for step, loss in enumerate(by_heart(steps, end=1e-5), start=1):
        guard.observe(step, loss, loss, cosine(step, steps))


@pytest.mark.parametrize("start", [1, 7, 20])
def test_a_loss_of_zero_at_once_stops(start):
    losses = [3.0 - 0.01 * step for step in range(start - 1)] + [1e-4 + 1e-7 * step for step in range(100)]
    with pytest.raises(TrainingStopped, match=r"all rows have the same codes.*quality.html"):
        feed(LossGuard(), losses[: start + 9])


def test_a_loss_of_zero_later_is_learned():
    losses = [3.0 / (1 + step) for step in range(25)] + [1e-4 + 1e-7 * step for step in range(500)]
    feed(LossGuard(), losses)


def test_a_loss_that_never_changes_stops():
    with pytest.raises(TrainingStopped, match=r"exactly 7\.624619 in 25 steps.*nothing is trained"):
        feed(LossGuard(), [8.0, *[7.624619] * 25])


def test_a_loss_that_stands_still_because_the_rate_is_at_its_end_goes_on():
    steps = 2000
    guard = LossGuard()
    for step in range(1, steps + 1):
        guard.observe(step, max(0.8, 800 / step), 1.0, cosine(step, steps) if step < 1000 else 1e-6)


def test_changes_in_the_last_bit_are_changes():
    loss = 2.5
    for_a_while = []
    for _ in range(200):
        loss = math.nextafter(loss, 0)
        for_a_while.append(loss)
    feed(LossGuard(), for_a_while)


@given(st.lists(LOSSES.filter(lambda x: x >= guards.ZERO_LOSS), min_size=1, max_size=200, unique=True))
def test_losses_that_change_and_fall_never_stop(losses):
    feed(LossGuard(), sorted(losses, reverse=True))


def test_three_evaluations_that_are_the_same_stop():
    """Batches in random order hide that nothing is trained; the evaluation's rows are always the same."""
    guard = LossGuard()
    guard.evaluated(10, 5.25, 1e-4)
    guard.evaluated(20, 5.25, 1e-4)
    with pytest.raises(TrainingStopped, match=r"3 evaluations in a row up to step 30.*exactly 5\.25"):
        guard.evaluated(30, 5.25, 1e-4)


def test_evaluations_that_differ_or_are_learned_or_at_a_negligible_rate_go_on():
    guard = LossGuard()
    for step in range(1, 50):
        guard.evaluated(step, 5.0 + 0.1 * (step // 2), 1e-4)
    for step in range(50, 100):
        guard.evaluated(step, 1e-5, 1e-4)
    for step in range(100, 150):
        guard.evaluated(step, 4.0, 1e-7)
    for step in range(150, 200):
        guard.evaluated(step, NAN, 1e-4)


def test_no_gradient_stops():
    with pytest.raises(TrainingStopped, match=r"gradient was exactly 0 in 10 steps"):
        feed(LossGuard(), [5.0 + 0.1 * (step % 3) for step in range(10)], norm=0.0)


def test_a_loss_that_goes_up_for_good_stops():
    """Too high a rate gives no NaN, only a model that is worse than at the start."""
    with pytest.raises(TrainingStopped, match=r"gone up from 8.* to 2.*LEARNING_RATE"):
        feed(LossGuard(), [8.0 + 0.01 * (s % 5) for s in range(50)] + [20.0 + s % 7 for s in range(60)])


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([10.4, 5836.0, 4750.0, 2129.0, 1250.0, 483.0, 244.0], 6),  # a rate of 10 without warmup
        ([6.0, 6.1, 5.9] + [7.0] * 4 + [10.5] * 40, 23),  # worse than guessing
    ],
)
def test_a_loss_that_goes_up_at_once_stops_in_a_run_of_any_length(losses, step):
    """What diverges in its first steps is not compared with these steps themselves."""
    guard = LossGuard()
    with pytest.raises(TrainingStopped, match=rf"from (10\.4|6\.1) at the start to .* at step {step}: lower LEARNING"):
        for number, loss in enumerate(losses, start=1):
            guard.observe(number, loss, 1.0)


def test_a_first_batch_that_is_easy_is_no_divergence():
    guard = LossGuard()
    for number, loss in enumerate([1.5, 6.0, 7.0] + [7.5, 9.0, 6.5] * 40, start=1):
        guard.observe(number, loss, 1.0)


def test_a_hard_stretch_is_no_divergence():
    feed(LossGuard(), [4.0 + 0.01 * (s % 5) for s in range(100)] + [6.0 + 0.1 * (s % 7) for s in range(100)])
    feed(LossGuard(), [0.01 + 1e-4 * (s % 5) for s in range(100)] + [0.5 + 0.1 * (s % 7) for s in range(100)])


# Gradient norms


@given(st.lists(st.floats(1.0, 9.9), max_size=200))
def test_norms_within_a_factor_of_ten_are_no_spikes(norms):
    guard = SpikeGuard(1.0)
    assert not any(guard.observe(step, 3.0, norm) for step, norm in enumerate(norms, start=1))


@given(st.lists(st.floats(1e-6, 1.0), max_size=200))
def test_norms_that_are_not_clipped_are_no_spikes(norms):
    """Near a loss of 0 norms differ a thousandfold between sentences."""
    guard = SpikeGuard(1.0)
    assert not any(guard.observe(step, 3.0, norm) for step, norm in enumerate(norms, start=1))


@given(st.lists(NORMS, max_size=150), st.sampled_from([0.0, 0.5, 1.0]))
def test_spikes_against_their_definition(norms, clip):
    """A spike is above ten times the median of the last fifty norms before its streak, and above the clipping norm."""
    guard = SpikeGuard(clip)
    usual, streak = [], []
    for step, norm in enumerate(norms, start=1):
        known = usual[-50:]
        spike = len(known) >= 20 and norm > max(10 * statistics.median(known), clip or 1.0)
        assert guard.observe(step, 3.0, norm) == spike
        streak.append(norm)
        if not spike:
            usual, streak = usual + streak, []
        elif len(streak) == 25:
            usual, streak = [], []


@pytest.mark.parametrize(("clip", "spike"), [(1.0, False), (0.0, False), (0.5, True)])
def test_a_norm_far_above_the_usual_is_a_spike_only_if_it_is_clipped(clip, spike):
    guard = SpikeGuard(clip)
    for step in range(1, 31):
        guard.observe(step, 1e-3, 1e-3)
    assert guard.observe(31, 1e-3, 0.9) is spike


def test_the_usual_is_that_of_the_last_fifty_steps():
    guard = SpikeGuard(1.0)
    for step in range(1, 201):
        assert not guard.observe(step, 3.0, 2.0)
    for step in range(201, 251):
        assert not guard.observe(step, 3.0, 15.0)
    assert not guard.observe(251, 3.0, 100.0)
    assert guard.observe(252, 3.0, 151.0)


def test_three_spikes_in_a_row_are_warned_of_once(capsys):
    guard = SpikeGuard(1.0)
    for step in range(1, 31):
        guard.observe(step, 3.0, 2.0)
    for step in range(31, 33):
        assert guard.observe(step, 3.0, 50.0)
    assert capsys.readouterr().err == ""
    for step in range(33, 40):
        assert guard.observe(step, 3.0, 50.0)
    warned = capsys.readouterr().err
    assert warned.count("warning") == 1
    assert "step 33: gradient norm 50" in warned and "usual 2" in warned


def test_spikes_that_stay_with_a_loss_that_rises_stop():
    guard = SpikeGuard(1.0)
    for step in range(1, 31):
        guard.observe(step, 3.0 + 0.01 * step, 2.0)
    for step in range(31, 55):
        assert guard.observe(step, 5.0, 100.0)
    with pytest.raises(TrainingStopped, match=r"25 steps in a row up to step 55.*usual 2.*LEARNING_RATE"):
        guard.observe(55, 5.0, 100.0)


def test_spikes_without_harm_to_the_loss_become_the_usual():
    """More parameters trained, or longer sentences: larger norms for good are no reason to stop."""
    guard = SpikeGuard(1.0)
    for step in range(1, 31):
        guard.observe(step, 3.0 + 0.01 * step, 2.0)
    spikes = [guard.observe(step, 2.9, 100.0) for step in range(31, 200)]
    assert sum(spikes) == 25 and not any(spikes[25:])


# The best evaluation


@given(
    st.lists(st.tuples(st.one_of(LOSSES, st.just(NAN), st.just(INF)), st.sampled_from([0.0, 0.5, 1.0])), max_size=40)
)
def test_best_is_the_first_of_the_lowest_ranked(evaluations):
    patience = Patience(None, None)
    exported = [step for step, (loss, penalty) in enumerate(evaluations, 1) if patience.better(step, loss, penalty)]
    finite = [(loss + 0.5 * penalty, loss, step) for step, (loss, penalty) in enumerate(evaluations, 1) if loss < INF]
    assert patience.best_step == (min(finite)[2] if finite else 0)
    assert patience.best_step == (exported[-1] if exported else 0)
    assert patience.best == (min(finite)[1] if finite else INF)


def test_without_penalties_the_loss_alone_decides():
    patience = Patience(2, None)
    assert patience.better(1, 5.0)
    assert not patience.better(2, 5.0)
    assert patience.stop(5.0) is None
    assert patience.better(3, 4.9)
    assert not patience.better(4, NAN)
    assert not patience.better(5, 4.95)
    assert "EARLY_STOPPING_PATIENCE" in patience.stop(4.95)


def test_target_loss_stops():
    patience = Patience(None, 4.5)
    assert patience.stop(4.6) is None
    assert "TARGET_LOSS=4.5" in patience.stop(4.5)


# Going on after a restart


def guarded(events, cut=None):
    """Feed events to all guards, through a JSON round trip before event `cut`; what happened, up to a stop."""
    both, seen = Guards(1.0, 4), []
    for number, (loss, norm, rate, evaluated, penalty) in enumerate(events, start=1):
        if number == cut:
            state = json.loads(json.dumps(both.state(), allow_nan=False))
            both = Guards(1.0, 4)
            both.load(state)
        try:
            seen.append(both.admit(number, loss, norm, rate))
            if evaluated:
                both.losses.evaluated(number, loss, rate)
                seen.append((both.patience.better(number, loss, penalty), both.patience.stop(loss)))
        except TrainingStopped as stopped:
            seen.append(str(stopped))
            break
    return seen, both.finite.skipped, both.patience.best


EVENTS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([2.0, 1e-4, NAN, 9.0]), LOSSES),
        st.one_of(st.sampled_from([0.0, 1.0, 2000.0]), NORMS),
        st.sampled_from([1e-4, 1e-4, 1e-7]),
        st.booleans(),
        st.sampled_from([0.0, 0.5]),
    ),
    min_size=2,
    max_size=120,
)


@given(EVENTS, st.integers(2, 120), st.sampled_from([1, 3, 40]))
def test_a_restarted_run_is_guarded_as_if_it_had_gone_on(events, cut, repeat):
    """State through JSON at any step: the same steps admitted, the same stop with the same words."""
    events = [event for event in events for _ in range(repeat)]
    assume(cut <= len(events))
    assert guarded(events, cut) == guarded(events)


def test_a_run_that_is_restarted_at_the_end_of_its_rate_may_stand_still():
    guard, again = LossGuard(), LossGuard()
    guard.observe(1, 0.8, 1.0, 1e-3)
    again.load(json.loads(json.dumps(guard.state())))
    for step in range(2, 100):
        again.observe(step, 0.8, 1.0, 1e-6)


def test_a_state_without_a_guard_starts_it_afresh():
    both = Guards()
    both.load({"finite": {"skipped": 3, "seen": 10, "in_a_row": 0}})
    assert both.finite.skipped == 3
    assert both.admit(11, 3.0, 1.0)
