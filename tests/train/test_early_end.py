"""A run that ends before its last step ends there, too, when it is killed or stopped just then and run again."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file

from tests.support.commands import run_job
from tests.support.short_run import trained

#: What ends a run of eight steps at a validation, of which there is one after each second step; what is said of it.
REACHED = ({"TARGET_LOSS": "100"}, "reached TARGET_LOSS=100")
NO_BETTER = ({"EARLY_STOPPING_PATIENCE": "1", "LEARNING_RATE": "1e-30"}, "no better validation loss in 1 evaluations")


def result(work):
    """Weights, and logs without times."""
    output = work / "output"
    logs = [
        [{**json.loads(line), "timestamp": "", "frames_per_second": 0} for line in log.read_text().splitlines()]
        for log in (output / "training_log.jsonl", output / "validation_log.jsonl")
    ]
    return [load_file(output / name / "model.safetensors") for name in ("best", "last")], logs


@pytest.mark.parametrize(("ending", "said"), [REACHED, NO_BETTER], ids=["target", "patience"])
def test_a_run_that_had_ended_takes_no_further_step(tmp_path, tiny_base, capsys, ending, said):
    """Cut short between the checkpoint of its last step and `output/last`, as by a signal in that very step."""
    work = tmp_path / "work"
    given = {**trained(work, tiny_base, MAX_STEPS=8, **ending), "WORK_DIR": work}
    weights, logs = result(work)
    steps = [line["step"] for line in logs[0]]
    assert steps == list(range(1, steps[-1] + 1)) and 2 <= steps[-1] < 8
    assert logs[1][-1]["step"] == steps[-1]
    assert (work / f"output/checkpoint-{steps[-1]}").is_dir()
    shutil.rmtree(work / "output/last")
    (work / "state/train.json").unlink()

    again = run_job(capsys, ["train"], given)
    assert again.code == 0, again.err
    assert said in again.out and f"{steps[-1]} steps; best loss" in again.out
    after, logs_after = result(work)
    assert logs_after == logs
    for one, other in zip(after, weights, strict=True):
        assert all((one[name] == tensor).all() for name, tensor in other.items())


def test_a_later_run_may_go_on_from_where_an_earlier_one_ended(tmp_path, tiny_base, capsys):
    """RESUME=<path>: whoever names the checkpoint wants more steps than there were."""
    ending, _ = NO_BETTER
    given = trained(tmp_path / "work", tiny_base, MAX_STEPS=8, **ending)
    given.update(RESUME=tmp_path / "work/output/checkpoint-4", OUTPUT_DIR=tmp_path / "more", LEARNING_RATE="1e-3")
    result = run_job(capsys, ["train"], {**given, "WORK_DIR": tmp_path / "work"})
    assert result.code == 0, result.err
    assert "resuming from checkpoint-4" in result.out and "8 steps; best loss" in result.out, result.out
