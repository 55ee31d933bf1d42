"""Several processes train what one trains: same loss curve, same weights, whoever resumes from whose checkpoint."""

from __future__ import annotations

import json
import shutil
import signal
import time

import psutil
import pytest
from safetensors.torch import load_file

from tests.support.commands import run_job
from tests.test_pipeline import start

#: Two batches a step: of one process, or of two with GRAD_ACCUM=1.
RUN = {
    "PRESET": "demo",
    "MAX_STEPS": "12",
    "MAX_TRAIN_SAMPLES": "6",
    "VALIDATION_FRACTION": "0.3",
    "BATCH_SIZE": "1",
    "EVAL_STEPS": "6",
    "LOGGING_STEPS": "1",
    "EARLY_STOPPING_PATIENCE": "0",
    "PROBE_SENTENCES": "1",
    "SUB_TALKER_FRAME_FRACTION": "0.5",  # what is random must not depend on who computes it
    "DEVICE": "cpu",
}
LORA = {"TRAIN_MODE": "lora", "LORA_DROPOUT": "0.2", "EXPORT": "merged"}
FULL = {"TRAIN_MODE": "full", "DISTRIBUTED": "fsdp"}
ONE, TWO = {"GRAD_ACCUM": "2"}, {"NUM_GPUS": "2"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A work directory with prepared data, not to be changed."""
    work = tmp_path_factory.mktemp("prepared") / "work"
    process = start({**RUN, "WORK_DIR": str(work)}, ("run", "--until", "prepare"))
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return work


def train(work, *variables, stop_at=None):
    """`python -m job train`; stopped by SIGTERM when `stop_at` is there. Returns exit code, stdout, stderr."""
    merged = {**RUN, "WORK_DIR": str(work)}
    for more in variables:
        merged |= more
    process = start(merged, ("train",))
    if stop_at is not None:
        deadline = time.monotonic() + 120
        while not stop_at.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.terminate()
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def curve(work):
    """(losses and gradient norms a step, validation losses)."""
    lines = [json.loads(line) for line in (work / "output/training_log.jsonl").read_text().splitlines()]
    checks = [json.loads(line) for line in (work / "output/validation_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    steps = [value for line in lines for value in (line["loss"], line["talker_loss"], line["grad_norm"])]
    return steps, [line["loss"] for line in checks]


def alike(first, second):
    """fp32 sums in another order: 1e-5 relative to values of 1 to 20."""
    for ours, theirs in zip(curve(first), curve(second), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    ours, theirs = (load_file(work / "output/last/model.safetensors") for work in (first, second))
    assert ours.keys() == theirs.keys()
    # Adam divides by the root of the second moment: where a gradient is all but 0, its noise is a step's worth.
    close = [(ours[name] - theirs[name]).abs().mean() for name in ours if ours[name].is_floating_point()]
    assert max(close) < 1e-4


@pytest.fixture
def copy(prepared, tmp_path):
    def make(name):
        shutil.copytree(prepared, tmp_path / name)
        return tmp_path / name

    return make


@pytest.mark.slow
def test_two_processes_train_what_one_does(copy, capsys):
    """Same global batch: same curve, with dropout and a share of the frames; one set of files, one line a message."""
    alone, two = copy("alone"), copy("two")
    result = run_job(capsys, ["train"], {**RUN, **LORA, **ONE, "WORK_DIR": alone})
    assert result.code == 0, result.err
    code, out, err = train(two, LORA, TWO)
    assert code == 0, err
    assert "2 processes on each of 1 nodes" in out and out.count("[train] 12 steps; best loss") == 1
    alike(alone, two)


@pytest.mark.thorough
def test_a_run_goes_on_with_more_or_fewer_processes(copy, capsys):
    """1 -> 2 and 2 -> 1, stopped by SIGTERM in between: the curve of an undisturbed run."""
    alone = copy("alone")
    assert run_job(capsys, ["train"], {**RUN, **LORA, **ONE, "WORK_DIR": alone}).code == 0
    for name, first, then in (("grown", ONE, {"GRAD_ACCUM": "2", **TWO}), ("shrunk", TWO, {})):
        work = copy(name)
        every = {"SAVE_STEPS": "2"}
        code, _, err = train(work, LORA, first, every, stop_at=work / "output/checkpoint-4")
        assert code == 143, err
        code, out, err = train(work, LORA, then, every)
        assert code == 0, err
        assert "resuming from checkpoint-" in out
        alike(alone, work)


@pytest.mark.thorough
def test_a_sharded_model_trains_the_same(copy, capsys):
    """DISTRIBUTED=fsdp with full fine-tuning; its checkpoint is one that a single process resumes from."""
    alone, two = copy("alone"), copy("two")
    assert run_job(capsys, ["train"], {**RUN, **FULL, **ONE, "PROBE_SENTENCES": "0", "WORK_DIR": alone}).code == 0
    every = {"SAVE_STEPS": "2", "PROBE_SENTENCES": "0"}
    code, _, err = train(two, FULL, TWO, every, stop_at=two / "output/checkpoint-4")
    assert code == 143, err
    code, _, err = train(two, FULL, {"NUM_GPUS": "1"}, every, stop_at=two / "output/checkpoint-8")
    assert code == 143, err
    code, _, err = train(two, FULL, TWO, every)
    assert code == 0, err
    alike(alone, two)


@pytest.mark.slow
def test_a_lost_process_ends_all_with_one_message(copy):
    """One of two is killed: no hang, one line that says what to do, nothing left running; and the rerun resumes."""
    work = copy("lost")
    every = {**RUN, **LORA, **TWO, "MAX_STEPS": "400", "SAVE_STEPS": "2", "WORK_DIR": str(work), "MAX_RESTARTS": "0"}
    process = start(every, ("train",))
    while not (work / "output/checkpoint-4").exists():
        assert process.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - killed < 60
    assert process.returncode == 1
    said = [line for line in err.splitlines() if line.startswith(("error: ", "[run] warning"))]
    assert len(said) <= 2 and any("killed by SIGKILL" in line for line in said), err
    assert "Traceback" not in err
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    newest = max(int(path.name.split("-")[1]) for path in (work / "output").glob("checkpoint-*"))
    more = {"MAX_STEPS": "400", "SAVE_STEPS": "2"}
    code, out, err = train(work, LORA, TWO, more, stop_at=work / f"output/checkpoint-{newest + 4}")
    assert code == 143, err
    assert "resuming from checkpoint-" in out


@pytest.mark.slow
def test_out_of_memory_is_met_with_smaller_pieces(copy, capsys, monkeypatch):
    """A batch that does not fit is computed in pieces, with the same result and a word; one sample too much is said."""
    import torch

    from job.loss.objective import Objective

    alone, short, hopeless = copy("alone"), copy("short"), copy("hopeless")
    few = {**RUN, "TRAIN_MODE": "lora", "EXPORT": "merged", "BATCH_SIZE": "4", "SUB_TALKER_FRAME_FRACTION": "1.0"}
    assert run_job(capsys, ["train"], {**few, "WORK_DIR": alone}).code == 0
    whole = Objective.forward

    def most(samples):
        def forward(self, batch, *rest):
            if self.training and len(batch.speakers) > samples:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return whole(self, batch, *rest)

        return forward

    monkeypatch.setattr(Objective, "forward", most(1))
    result = run_job(capsys, ["train"], {**few, "WORK_DIR": short})
    assert result.code == 0, result.err
    assert result.out.count("out of GPU memory") == 2  # two pieces, then four
    assert "in 4 pieces" in result.out
    alike(alone, short)
    monkeypatch.setattr(Objective, "forward", most(0))
    result = run_job(capsys, ["train"], {**few, "WORK_DIR": hopeless})
    assert result.code == 4
    assert "GRADIENT_CHECKPOINTING=true" in result.errors[0] and len(result.errors) == 1
