"""What a rerun with changed settings does with an earlier run's checkpoints is said in one line, and never mixed."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.support import made_rows
from tests.support.commands import run_job
from tests.support.short_run import trained


@pytest.fixture(scope="module")
def before(tmp_path_factory, tiny_base):
    """The work directory and the variables of a run of three steps, with a checkpoint of the second and third."""
    work = tmp_path_factory.mktemp("before") / "work"
    given = trained(work, tiny_base)
    assert sorted(path.name for path in (work / "output").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    (work / "state/train.json").unlink()
    return work, given


@pytest.fixture
def again(before, tmp_path, capsys):
    """A function that runs a command on a copy of that work directory with some variables changed."""
    work, given = before
    shutil.copytree(work, tmp_path / "work")

    def run(command, **changed):
        return run_job(capsys, [command], {**given, "WORK_DIR": tmp_path / "work", **changed})

    return run


def steps(work):
    return [json.loads(line)["step"] for line in (work / "output/training_log.jsonl").read_text().splitlines()]


def test_a_run_that_begins_anew_says_which_variable_was_changed(again, tmp_path):
    """Once and not of every checkpoint; whoever changed it by mistake finds it at once."""
    result = again("train", LEARNING_RATE="2e-3", EVAL_STEPS=1)
    assert result.code == 0, result.err
    said = [line for line in result.out.splitlines() if "checkpoint" in line]
    assert said == [
        "[train] checkpoint-3 is of a run with other settings or data (EVAL_STEPS was 2 and is 1, LEARNING_RATE was "
        "0.001 and is 0.002) and is left out",
        f"[train] begins anew; 2 checkpoints of an earlier run are removed from {tmp_path / 'work/output'}",
        f"[train] checkpoint-3 and the best model are in {tmp_path / 'work/output/earlier'} until this run has "
        "finished: with the variables and data of before, that run is there again",
    ]
    assert steps(tmp_path / "work") == [1, 2, 3, 4]


def test_other_data_are_said_as_such(again, tmp_path, tiny_base):
    shutil.rmtree(tmp_path / "work/data")
    made_rows.write(tmp_path / "work", tiny_base, made_rows.rows(tiny_base, 5))
    result = again("train")
    assert result.code == 0, result.err
    assert "data (the prepared data are others) and is left out" in result.out


def test_a_checkpoint_that_is_named_goes_on_with_what_was_changed(again, tmp_path):
    """RESUME=<path> asks for it, and the line says what it is."""
    result = again("train", LORA_ALPHA=64, RESUME=tmp_path / "work/output/checkpoint-3")
    assert result.code == 0, result.err
    assert (
        "resuming from checkpoint-3, of a run with other settings or data (LORA_ALPHA was 32.0 and is 64.0)"
        in result.out
    )
    assert steps(tmp_path / "work") == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"TRAIN_MODE": "full"}, "it holds other parameters than this run trains"),
        ({"LORA_R": 8}, "it holds other parameters than this run trains"),
        ({"MAX_STEPS": 2}, "it is at step 3, and the run has 2; raise MAX_STEPS"),
        ({"OPTIMIZER": "adamw_8bit"}, "it was written with OPTIMIZER=adamw_fused"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_a_checkpoint_that_does_not_go_with_the_settings_is_refused_by_all(again, tmp_path, changed, said):
    """By doctor too, not after the data is prepared; and the run's checkpoints and best model stay as they are."""
    checkpoint = tmp_path / "work/output/checkpoint-3"
    kept = sorted(str(path) for path in (tmp_path / "work/output").rglob("*"))
    for command in ("doctor", "plan", "train"):
        result = again(command, RESUME=checkpoint, **changed)
        assert (result.code, len(result.errors)) == (2, 1), command
        assert f"RESUME={checkpoint}: " in result.errors[0] and said in result.errors[0], command
    assert sorted(str(path) for path in (tmp_path / "work/output").rglob("*")) == kept
