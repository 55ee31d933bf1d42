"""A run that takes another one's place loses nothing of it: with the settings as they were, that one goes on."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest

from job.config import settings as variables
from job.config.paths import Paths
from job.core import files
from job.core import state as stage_state
from job.estimate import disk
from job.train import earlier_run, resume
from tests.support.commands import run_job
from tests.support.short_run import trained


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_base):
    """The work directory and the variables of a finished run of four steps."""
    work = tmp_path_factory.mktemp("finished") / "work"
    given = trained(work, tiny_base, EVAL_STEPS=1)
    shutil.copytree(work, work.with_name("as it was"))
    return work, {**given, "WORK_DIR": work}


@pytest.fixture
def work(finished):
    """That work directory as it was, at the place that its records name."""
    shutil.rmtree(finished[0])
    shutil.copytree(finished[0].with_name("as it was"), finished[0])
    return finished[0]


@pytest.fixture
def again(finished, work, capsys):
    """A function that trains in that work directory with some variables changed."""
    return lambda **changed: run_job(capsys, ["train"], {**finished[1], **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {
            "TRAIN_MODE": "full",
            "OPTIMIZER": "adamw_8bit",
            "MASTER_WEIGHTS": "bf16_stochastic",
            "MIXED_PRECISION": "bf16",
        },
    ],
    ids=["lora", "8 bit"],
)
def test_the_space_that_a_checkpoint_takes_is_known_before(finished, work, again, changed):
    """doctor looks for it, and plan prints it."""
    result = again(**changed, MAX_STEPS=2)
    assert result.code == 0, result.err
    given = {**finished[1], **changed}
    told = disk.resumable_bytes(variables.load({name: str(value) for name, value in given.items()}))
    assert sum(p.stat().st_size for p in (work / "output/checkpoint-1").iterdir()) == pytest.approx(told, 0.05)


#: Ends with a guard, after an evaluation or two.
MISTAKEN = {"LEARNING_RATE": "300", "MAX_STEPS": 40, "MAX_GRAD_NORM": 0}


def weights(work):
    return {name: (work / f"output/{name}/model.safetensors").read_bytes() for name in ("best", "last")}


def steps(work):
    return [json.loads(line)["step"] for line in (work / "output/training_log.jsonl").read_text().splitlines()]


def test_a_mistaken_run_costs_the_one_before_it_nothing(work, again):
    """It replaced the best model and then failed. With the settings as they were, the voice is that of before: it is
    not taken to be finished because it once was, and is not trained from the beginning."""
    voice = weights(work)
    failed = again(**MISTAKEN)
    assert failed.code == 4, failed.err
    assert "[train] begins anew; 2 checkpoints of an earlier run are removed" in failed.out
    kept = work / "output/earlier"
    assert f"the models of the finished run of 4 steps are in {kept} until this run has finished" in failed.out
    assert weights(work)["best"] != voice["best"]
    assert (kept / "best/model.safetensors").read_bytes() == voice["best"]

    back = again()
    assert back.code == 0, back.err
    assert "[train] nothing to do" in back.out
    assert weights(work) == voice
    assert steps(work) == [1, 2, 3, 4]
    assert resume.latest(kept), "the mistaken run is kept instead"


def test_an_unfinished_run_goes_on_from_its_newest_checkpoint(work, again):
    """Also after two mistakes in a row, of which the second comes after a checkpoint of the first."""
    voice = weights(work)
    (work / "state/train.json").unlink()  # as if it had been stopped after step 3
    shutil.rmtree(work / "output/last")
    assert again(**MISTAKEN, SAVE_STEPS=3).code == 4
    assert resume.step_of(resume.latest(work / "output")) == 3
    second = again(**MISTAKEN, WARMUP_STEPS=7)
    assert second.code == 4 and "keeps the run that is there" in second.out
    back = again()
    assert back.code == 0 and "[train] resuming from checkpoint-3" in back.out
    assert weights(work) == voice and steps(work) == [1, 2, 3, 4]
    assert not (work / "output/earlier").exists(), "it goes once a run has finished"
    assert "[train] nothing to do" in again().out


def test_a_short_run_without_checkpoints_is_kept_too(work, again):
    """SAVE_STEPS is 500: most runs of a few clips end before."""
    voice = weights(work)
    resume.clear(work / "output")
    assert again(**MISTAKEN).code == 4
    assert "[train] nothing to do" in again().out
    assert weights(work) == voice


def test_a_run_that_goes_on_from_anothers_checkpoint_keeps_what_was_there(work, again, tmp_path):
    """RESUME=<path> with other settings, and back; a checkpoint that is refused changes nothing."""
    voice = weights(work)
    shutil.copytree(work / "output/checkpoint-2", tmp_path / "checkpoint-2")
    refused = again(RESUME=tmp_path / "checkpoint-2", MAX_STEPS=1)
    assert refused.code == 2, refused
    assert "[train] nothing to do" in again().out
    other = again(RESUME=tmp_path / "checkpoint-2", **MISTAKEN)
    assert other.code == 4, other
    assert weights(work)["best"] != voice["best"]
    assert "[train] nothing to do" in again().out
    assert weights(work) == voice


@pytest.mark.parametrize("changed", [{"FORCE": "true"}, {"RESUME": "never"}], ids=lambda given: next(iter(given)))
def test_who_asks_for_it_begins_anew(work, again, changed):
    """FORCE=true and RESUME=never keep nothing and bring nothing back; the result is the same."""
    voice = weights(work)
    assert again(**MISTAKEN).code == 4
    result = again(**changed)
    assert result.code == 0, result.err
    assert "resuming" not in result.out and "until this run has finished" not in result.out
    assert weights(work) == voice
    assert not (work / "output/earlier").exists()


# ---- kills and full disks --------------------------------------------------------------------------------------------


def made(output, key, step, word):
    """A run's files, as far as moving them about goes."""
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = output / f"checkpoint-{step}"
    checkpoint.mkdir()
    files.write_json(checkpoint / "state.json", {"key": key, "step": step})
    for name in ("trained.safetensors", "optimizer.safetensors", "random.safetensors"):
        (checkpoint / name).write_text(word)
    sums = {path.name: files.digest_file(path) for path in checkpoint.iterdir()}
    files.write_json(checkpoint / "checksums.json", sums)
    for directory in ("best", "candidates/step-1"):
        (output / directory).mkdir(parents=True)
        (output / directory / "model.safetensors").write_text(word)
    for log in ("training_log.jsonl", "validation_log.jsonl"):
        (output / log).write_text(word)


def finish(paths, fingerprint):
    """The record of a finished run."""
    (paths.output / "last").mkdir()
    (paths.output / "last/model.safetensors").write_text("last")
    record = {"fingerprint": fingerprint, "outputs": [str(paths.best)], "counts": {"steps": 9}}
    files.write_json(paths.state / "train.json", record)


def content(output, step):
    places = (f"checkpoint-{step}/trained.safetensors", "best/model.safetensors", "candidates/step-1/model.safetensors")
    return {(output / place).read_text() for place in (*places, "training_log.jsonl", "validation_log.jsonl")}


def killed(function, after):
    """Run `function` in a process that dies at a change of the disk, the one of this number; whether it lived."""
    child = os.fork()
    if child == 0:
        changes = [0]

        def hook(event, _):
            changes[0] += event in ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
            if changes[0] == after:
                os._exit(9)

        sys.addaudithook(hook)
        function()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("done", [False, True], ids=["unfinished", "finished"])
def test_a_kill_at_any_moment_of_the_exchange_loses_neither_run(tmp_path, done):
    """A is kept, B is there, and A is asked for; the process dies at the n-th change of the disk. Whoever is asked for
    next is there: A, or B, or a C that is neither."""
    for after in range(1, 300):
        ended = []
        for asked in "ABC":
            paths = Paths(tmp_path / f"{after}-{asked}", tmp_path / f"{after}-{asked}/output")
            made(paths.output, "A", 7, "a")
            if done:
                finish(paths, "a's")
            earlier_run.set_aside(paths, "B")
            shutil.rmtree(paths.output / "candidates")
            shutil.rmtree(paths.output / "best")
            resume.clear(paths.output)
            stage_state.begin(paths.state, "train")
            made(paths.output, "B", 3, "b")
            wanted = {"fingerprint": "a's"} if done else {"key": "A"}
            ended.append(killed(lambda paths=paths, wanted=wanted: earlier_run.bring_back(paths, **wanted), after))
            for _ in range(2):
                if asked == "B" and resume.newest(paths.output, "B") is None:
                    earlier_run.bring_back(paths, key="B")
                elif asked == "C":
                    earlier_run.bring_back(paths, key="C")
                elif asked == "A" and resume.newest(paths.output, "A") is None:
                    assert earlier_run.bring_back(paths, **wanted)
            of_a, of_b = paths.output, paths.earlier
            if resume.newest(paths.output, "A") is None:
                assert asked != "A"
                of_a, of_b = paths.earlier, paths.output
                if not (of_a / "checkpoint-7").exists():  # on its way, which the next who asks for A goes on with
                    of_a = paths.output / ".earlier.returning"
            assert content(of_a, 7) == {"a"}
            assert content(of_b, 3) == {"b"}
            if done:
                record = stage_state.read(paths.state if of_a == paths.output else of_a, "train")
                assert record and record["fingerprint"] == "a's"
            earlier_run.forget(paths)
            assert not paths.earlier.exists() and not list(paths.output.glob(".*"))
            shutil.rmtree(paths.work)
        if all(ended):
            break
    assert 20 < after < 299


def test_a_kill_while_a_run_begins_keeps_the_newest_of_the_one_before(tmp_path):
    """The same of setting aside and of the removal that follows."""
    for after in range(1, 200):
        paths = Paths(tmp_path / str(after), tmp_path / f"{after}/output")
        made(paths.output, "A", 7, "a")
        shutil.copytree(paths.output / "checkpoint-7", paths.output / "checkpoint-6")

        def begin(paths=paths):
            earlier_run.set_aside(paths, "B")
            resume.clear(paths.output)

        ended = killed(begin, after)
        begin()
        assert resume.latest(paths.output) is None
        assert content(paths.earlier, 7) == {"a"}
        if ended:
            break
    assert 10 < after < 199


def test_a_full_disk_takes_what_is_kept_before_it_costs_a_checkpoint(tmp_path):
    """Once; without anything kept, a full disk is one."""
    paths = Paths(tmp_path, tmp_path / "output")
    made(paths.output, "A", 7, "a")
    earlier_run.set_aside(paths, "B")

    def write():
        if paths.earlier.exists():
            with open("/dev/full", "w") as full:
                full.write("x")
        return "written"

    assert earlier_run.making_room(paths, write) == "written"
    assert not paths.earlier.exists()
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "w") as full:
        earlier_run.making_room(paths, lambda: (full.write("x"), full.flush()))
    with pytest.raises(ZeroDivisionError):
        earlier_run.making_room(paths, lambda: 1 / 0)
