"""Nothing is lost, whenever a run is killed or stopped, and the rerun ends where an undisturbed run ends."""

from __future__ import annotations

import random
import signal

import pytest

from tests.support.disturbed import RUN, Run, compare, disturb

KILLS = 6
STOPS = 4
KILLS_OF_TWO = 2


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("undisturbed") / "work", RUN)
    run.finish()
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "hits"),
    [
        (signal.SIGKILL, KILLS),
        pytest.param(signal.SIGTERM, STOPS, marks=pytest.mark.thorough),  # one stop: tests/test_pipeline.py
        pytest.param(signal.SIGKILL, 25, marks=pytest.mark.thorough),
        pytest.param(signal.SIGTERM, 10, marks=pytest.mark.thorough),
    ],
)
def test_a_run_that_is_hit_at_random_instants_ends_as_an_undisturbed_one(undisturbed, tmp_path, number, hits):
    """All stages: same files, to the last bit where they hold no times; no temporary file left, no step logged twice.
    SIGTERM ends a run within GRACE_SECONDS."""
    dice = random.Random(f"{number} of this test")
    done = rounds = 0
    while done < hits:
        run = Run(tmp_path / str(rounds), RUN)
        done += disturb(run, undisturbed, dice, number, most=min(13, hits - done))
        rounds += 1
        compare(run, undisturbed)
        assert run.slowest_stop < 25


@pytest.mark.slow
def test_two_processes_whose_launcher_is_killed_leave_nothing_in_the_way(tmp_path):
    """NUM_GPUS=2: those that it has started end with it, and the next start resumes at once, to the same end. Until
    training: one process does what follows, as in the test above."""
    variables = {**RUN, "NUM_GPUS": "2", "BATCH_SIZE": "1"}
    undisturbed, run = (Run(tmp_path / name, variables, "train") for name in ("undisturbed", "killed"))
    undisturbed.finish()
    disturb(run, undisturbed, random.Random("two processes to the end of training"), signal.SIGKILL, KILLS_OF_TWO)
    compare(run, undisturbed)
