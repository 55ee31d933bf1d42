"""What machines do to a run: full disks, jumping clocks, older states. Nothing is lost, and one line says what is."""

from __future__ import annotations

import json
import shutil
import time

import pytest

from job.core import state
from tests.support import small_disk
from tests.support.commands import run_job
from tests.test_pipeline import start

RUN = {
    "PRESET": "demo",
    "MAX_STEPS": "12",
    "MAX_TRAIN_SAMPLES": "4",
    "BATCH_SIZE": "2",
    "SAVE_STEPS": "2",
    "SAVE_TOTAL_LIMIT": "10",
    "EVAL_STEPS": "12",
    "PROBE_SENTENCES": "0",
    "TRAIN_MODE": "full",
    "DEVICE": "cpu",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work directory with prepared data, and beside it `output` of an undisturbed run."""
    work = tmp_path_factory.mktemp("faults") / "work"
    process = start({**RUN, "WORK_DIR": str(work)}, ("run", "--until", "train"))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    output = work.with_name("output")
    shutil.move(work / "output", output)
    (work / "state" / "train.json").unlink()
    return work, output


@pytest.fixture
def work(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def disk(tmp_path):
    """A disk of its own for OUTPUT_DIR; called with the bytes it has, again to change them."""
    mounted = []

    def make(size):
        path = tmp_path / "disk"
        path.mkdir(exist_ok=True)
        small_disk.mount(path, size // 1024, again=bool(mounted))
        mounted.append(path)
        return path / "output"

    yield make
    if mounted:
        small_disk.unmount(mounted[0])


def size_of(directory):
    return sum(4096 * (path.stat().st_size // 4096 + 1) for path in directory.rglob("*") if path.is_file())


def losses(output):
    return [json.loads(line)["loss"] for line in (output / "training_log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(trained, work, disk, capsys):
    """There is room for three checkpoints to resume from: the others are left out with a word, and training ends."""
    undisturbed = trained[1]
    checkpoint, best = (size_of(undisturbed / name) for name in ("checkpoint-2", "best"))
    assert checkpoint > 2.1 * best + (1 << 20), "or the disk is not full when it should be"
    output = disk(3 * checkpoint + int(2.05 * best) + (1 << 19))
    result = run_job(capsys, ["train"], {**RUN, "WORK_DIR": work, "OUTPUT_DIR": output})
    assert result.code == 0, result.err
    assert f"checkpoint-8 is not written, OUTPUT_DIR={output} is full: make room" in result.err
    assert "a restart resumes from checkpoint-6" in result.err
    assert losses(output) == losses(undisturbed)
    for name in ("best", "last"):
        file = f"{name}/model.safetensors"
        assert (output / file).read_bytes() == (undisturbed / file).read_bytes()


@pytest.mark.slow
def test_a_disk_too_full_for_the_result_ends_with_one_line_and_goes_on_later(trained, work, disk, capsys):
    """Exit 2 with what to do; with more room the same command resumes from its last checkpoint, to the same end."""
    undisturbed = trained[1]
    checkpoint, best = (size_of(undisturbed / name) for name in ("checkpoint-2", "best"))
    output = disk(2 * checkpoint + best // 2)
    variables = {**RUN, "SAVE_STEPS": "4", "WORK_DIR": work, "OUTPUT_DIR": output}
    result = run_job(capsys, ["train"], variables)
    assert result.code == 2, result.err
    assert len(result.errors) == 1 and "No space left on device" in result.errors[0], result.err
    assert "set WORK_DIR and OUTPUT_DIR" in result.errors[0]
    disk(10 * checkpoint)
    result = run_job(capsys, ["train"], variables)
    assert result.code == 0, result.err
    assert "resuming from checkpoint-8" in result.out
    assert losses(output) == losses(undisturbed)
    assert (output / "best/model.safetensors").read_bytes() == (undisturbed / "best/model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(trained, work, capsys, monkeypatch):
    """Time of day goes back by hours at every look, as after a time server's correction; training does not care."""
    real, looks = time.time, []

    def jumping():
        looks.append(1)
        return real() - 3600.0 * len(looks)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
    result = run_job(capsys, ["train"], {**RUN, "WORK_DIR": work})
    assert result.code == 0, result.err
    assert losses(work / "output") == losses(trained[1])
    lines = [json.loads(line) for line in (work / "output/training_log.jsonl").read_text().splitlines()]
    assert all(line["frames_per_second"] > 0 for line in lines)
    assert json.loads((work / "state/train.json").read_text())["seconds"] > 0


@pytest.mark.slow
def test_work_of_an_older_version_is_done_again(work, capsys, monkeypatch):
    """A stage's state that another version has written does not count; one that cannot be read is none."""
    variables = {**RUN, "WORK_DIR": work}
    assert "nothing to do" in run_job(capsys, ["fetch"], variables).out
    monkeypatch.setattr(state, "FORMAT", state.FORMAT + 1)
    result = run_job(capsys, ["fetch"], variables)
    assert result.code == 0 and "[fetch] started" in result.out
    assert "nothing to do" in run_job(capsys, ["fetch"], variables).out
    path = work / "state" / "fetch.json"
    path.write_text(path.read_text()[:40])
    result = run_job(capsys, ["fetch"], variables)
    assert result.code == 0 and "[fetch] started" in result.out
