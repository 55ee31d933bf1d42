"""Work is never lost: a run that is killed or stopped resumes and ends bit for bit where an undisturbed one ends."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from job.config import settings as variables
from job.train import random_state
from tests.support.commands import run_job
from tests.test_pipeline import start

RUN = {
    "PRESET": "demo",
    "MAX_STEPS": "24",
    "MAX_TRAIN_SAMPLES": "6",
    "BATCH_SIZE": "2",
    "GRAD_ACCUM": "2",
    "EVAL_STEPS": "7",
    "SAVE_STEPS": "2",
    "LOGGING_STEPS": "3",
    "TRAIN_MODE": "lora",
    "LORA_DROPOUT": "0.2",  # the state of the random generator matters
    "SUB_TALKER_FRAME_FRACTION": "0.5",
    "TEXT_LAYOUT": "mixed",
    "DEVICE": "cpu",
}


def outcome(work):
    """What must not depend on how often the run was disturbed: weights, adapters, logs but for times and speeds."""
    output = work / "output"
    weights = {
        str(p.relative_to(output)): p.read_bytes()
        for folder in ("best", "last")
        for p in sorted((output / folder).rglob("*.safetensors"))
    }
    logs = {}
    for name in ("training_log.jsonl", "validation_log.jsonl"):
        lines = [json.loads(line) for line in (output / name).read_text().splitlines()]
        for line in lines:
            line.pop("timestamp")
            line.pop("frames_per_second", None)
        logs[name] = lines
    return weights, logs


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A work directory with prepared data, and the outcome of an undisturbed run in a copy of it."""
    work = tmp_path_factory.mktemp("undisturbed")
    process = start({**RUN, "WORK_DIR": str(work)}, ("run", "--until", "prepare"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    clean = work.with_name("prepared")
    shutil.copytree(work, clean)
    process = start({**RUN, "WORK_DIR": str(work)}, ("run", "--until", "train"))
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    return clean, outcome(work)


def disturbed(work, signals):
    """Run training in `work`, sending each of `signals` after some seconds of training, then to the end.

    Args:
        signals: (signal, seconds) in the order they are sent, each to a new run.
    """
    codes = []
    for number, moment in signals:
        process = start({**RUN, "WORK_DIR": str(work)}, ("run", "--until", "train"))
        for line in process.stdout:
            if line.startswith("[train] speakers"):
                time.sleep(moment)
                process.send_signal(number)
                break
        asked = time.monotonic()
        process.communicate(timeout=60)
        codes.append((number, process.returncode, time.monotonic() - asked))
        if process.returncode == 0:
            break
    process = start({**RUN, "WORK_DIR": str(work)}, ("run", "--until", "train"))
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    return codes, out


@pytest.mark.thorough
def test_a_disturbed_run_ends_as_an_undisturbed_one(prepared, tmp_path):
    """Stopped at a random moment, killed at another, then left alone: equal weights to the last bit, no step missing
    or logged twice, no temporary file; SIGTERM ends within seconds with 143."""
    clean, expected = prepared
    work = tmp_path / "work"
    shutil.copytree(clean, work)
    dice = random.Random(15)
    codes, _ = disturbed(work, [(number, dice.uniform(0.2, 2.0)) for number in (signal.SIGTERM, signal.SIGKILL)])
    for number, code, seconds in codes:
        # -15: the run was over and the interpreter on its way out, which a shell reports as 143 too
        assert code in ((0, 143, -15) if number == signal.SIGTERM else (0, -9))
        assert seconds < 25
    weights, logs = outcome(work)
    assert logs == expected[1]
    assert weights.keys() == expected[0].keys()
    assert weights == expected[0]
    assert not [p for p in work.rglob(".*") if "checkpoint" in p.name or p.name.endswith(".partial")]


@pytest.mark.slow
def test_resuming_from_every_kind_of_state(prepared, tmp_path, capsys):
    """A torn newest checkpoint is left out with a word, the one before it is taken, and the end is the same."""
    clean, expected = prepared
    work = tmp_path / "work"
    shutil.copytree(clean, work)
    process = start({**RUN, "WORK_DIR": str(work)}, ("run", "--until", "train"))
    for line in process.stdout:
        if line.startswith("[train] speakers"):
            break
    deadline = time.monotonic() + 60
    while not (work / "output" / "checkpoint-6").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=30)
    newest = max((work / "output").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    damaged = newest / "trained.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-7] + b"\0" * 7)
    result = run_job(capsys, ["run", "--until", "train"], {**RUN, "WORK_DIR": work})
    assert result.code == 0, result.err
    assert f"{newest.name} is left out: trained.safetensors is damaged" in result.err
    assert "resuming from checkpoint-" in result.out
    weights, logs = outcome(work)
    assert logs == expected[1]
    assert weights == expected[0]


@pytest.mark.slow
def test_a_run_whose_disk_is_gone_goes_on_from_its_mirror(prepared, tmp_path, capsys):
    """Killed, and started on an empty disk under another path: the same end, and nothing is encoded again."""
    clean, expected = prepared
    work, mirror = tmp_path / "vanishing", tmp_path / "mirror"
    shutil.copytree(clean, work)
    process = start({**RUN, "WORK_DIR": str(work), "MIRROR_CHECKPOINTS": str(mirror)}, ("train",))
    deadline = time.monotonic() + 120
    while not list(mirror.glob("run-*/checkpoint-*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=30)
    assert not list(mirror.glob("run-*/trained.json"))
    shutil.rmtree(work)
    work = tmp_path / "new"
    given = {**RUN, "WORK_DIR": work, "MIRROR_CHECKPOINTS": mirror}
    result = run_job(capsys, ["run", "--from", "fetch", "--until", "train"], given)
    assert result.code == 0, result.err
    for said in ("[fetch] nothing to do", "[prepare] nothing to do", "[train] resuming from checkpoint-"):
        assert said in result.out
    weights, logs = outcome(work)
    assert logs == expected[1]
    assert weights == expected[0]
    assert list(mirror.glob("run-*/trained.json"))


@pytest.mark.slow
def test_another_runs_checkpoint_is_not_taken(prepared, tmp_path, capsys):
    """Other settings are another run: its steps are not mixed into this one."""
    clean, _ = prepared
    work = tmp_path / "work"
    shutil.copytree(clean, work)
    few = {**RUN, "WORK_DIR": work, "MAX_STEPS": "4"}
    assert run_job(capsys, ["train"], few).code == 0
    result = run_job(capsys, ["train"], {**few, "LEARNING_RATE": "1e-5"})
    assert result.code == 0, result.err
    assert "is of a run with other settings or data" in result.out
    steps = [json.loads(line)["step"] for line in (work / "output/training_log.jsonl").read_text().splitlines()]
    assert steps == [1, 3, 4]


@pytest.mark.slow
def test_save_total_limit_keeps_the_newest(prepared, tmp_path, capsys):
    """SAVE_STEPS and SAVE_TOTAL_LIMIT: the newest N checkpoints are kept."""
    clean, _ = prepared
    work = tmp_path / "work"
    shutil.copytree(clean, work)
    variables = {**RUN, "WORK_DIR": work, "MAX_STEPS": "9", "SAVE_STEPS": "2", "SAVE_TOTAL_LIMIT": "2"}
    assert run_job(capsys, ["train"], variables).code == 0
    assert sorted(p.name for p in (work / "output").glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]


def test_random_state_comes_back_exactly():
    """torch, NumPy and Python draw the same numbers after a restore, a cached Gaussian included."""
    import numpy as np

    random.gauss(0, 1)
    np.random.standard_normal(3)
    states = random_state.current()

    def draw():
        return torch.rand(4).tolist(), np.random.standard_normal(3).tolist(), random.gauss(0, 1), random.random()

    first = draw()
    random_state.restore(states)
    assert draw() == first


STOPPING = """
import sys, time
from job.core import stopping
stopping.install()
stopping.set_grace(float(sys.argv[1]))
with stopping.StopRequest() as stop:
    print("ready", flush=True)
    while stop.name is None:
        time.sleep(0.01)
    print("asked by", stop.name, flush=True)
    time.sleep(60)
"""


def test_a_second_signal_ends_at_once_and_patience_has_an_end():
    """The first asks, the second insists; a step that takes longer than GRACE_SECONDS is not waited for."""
    for grace, second in (("60", True), ("2", False)):
        process = subprocess.Popen(
            [sys.executable, "-c", STOPPING, grace], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.readline() == "asked by SIGTERM\n"
        asked = time.monotonic()
        if second:
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 143
        assert time.monotonic() - asked < 10
        assert ("a second SIGINT" if second else "did not stop in time after SIGTERM (GRACE_SECONDS=2)") in err


@pytest.mark.slow
def test_resume_never_starts_anew(prepared, tmp_path, capsys):
    """RESUME=never does not look at checkpoints."""
    clean, _ = prepared
    work = tmp_path / "work"
    shutil.copytree(clean, work)
    few = {**RUN, "WORK_DIR": work, "MAX_STEPS": "3"}
    assert run_job(capsys, ["train"], few).code == 0
    shutil.rmtree(work / "output" / "last")
    result = run_job(capsys, ["train"], {**few, "RESUME": "never"})
    assert result.code == 0, result.err
    assert "resuming from" not in result.out
    assert variables.load({**RUN, "RESUME": "never"}).resume == "never"
