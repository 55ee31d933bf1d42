"""The GPU never waits for the disk: batches are built while the steps before them are computed."""

from __future__ import annotations

import shutil
import threading

import pytest

from job.loss.objective import Objective
from job.loss.rows import Rows
from tests.support.commands import run_job

RUN = {
    "PRESET": "demo",
    "MAX_STEPS": "6",
    "MAX_TRAIN_SAMPLES": "4",
    "BATCH_SIZE": "2",
    "PROBE_SENTENCES": "0",
    "DEVICE": "cpu",
}


@pytest.mark.slow
def test_the_next_batch_is_read_while_this_one_is_computed(tmp_path, capsys, monkeypatch):
    """A disk so slow that it answers only while a step is under way: no step but the first has to wait for it."""
    work = tmp_path / "work"
    assert run_job(capsys, ["run", "--until", "prepare"], {**RUN, "WORK_DIR": work}).code == 0
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(work, undisturbed)
    assert run_job(capsys, ["train"], {**RUN, "WORK_DIR": undisturbed}).code == 0

    read, computed = Rows.batch, Objective.forward
    asked, waits = [], []
    arrived = threading.Condition()

    def batch(self, rows, visit, fraction=1.0):
        if threading.current_thread() is not threading.main_thread():
            with arrived:
                asked.append(rows)
                arrived.notify_all()
        return read(self, rows, visit, fraction)

    def forward(self, *inputs):
        if self.training:
            step = len(waits) + 1
            with arrived:  # the step lasts until the next batch is asked for, which it would never be otherwise
                waits.append(arrived.wait_for(lambda: len(asked) > step or step == int(RUN["MAX_STEPS"]), timeout=60))
        return computed(self, *inputs)

    monkeypatch.setattr(Rows, "batch", batch)
    monkeypatch.setattr(Objective, "forward", forward)
    result = run_job(capsys, ["train"], {**RUN, "WORK_DIR": work})
    assert result.code == 0, result.err
    assert waits == [True] * int(RUN["MAX_STEPS"])
    for name in ("best", "last"):
        file = f"output/{name}/model.safetensors"
        assert (work / file).read_bytes() == (undisturbed / file).read_bytes()
