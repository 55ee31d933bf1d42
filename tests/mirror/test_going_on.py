"""What a machine with an empty disk finds in the mirror, what is left out, and that a failing mirror harms no run."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from job import pipeline
from job.config import settings as variables
from job.config.settings import Settings
from job.core import files, inside, state, stopping
from job.core.errors import StoppedBySignal, Unreachable
from job.fetch import hub_dataset
from job.mirror import background, identity, returning
from job.mirror.folder_mirror import FolderMirror
from job.mirror.keeping import Mirror
from job.stages import stage
from job.train import agreement

FETCH, PREPARE, TRAIN = (stage(name) for name in ("fetch", "prepare", "train"))
#: Steps of the fabricated runs.
FIRST, SECOND, THIRD = 2, 4, 6


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waits between attempts, nor for the disk: a kill is no power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(background, "POLL", 0.01)
    monkeypatch.setattr(background, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(returning, "FIRST_WAIT", 0.01)


def machine(tmp_path: Path, name: str, **more: str) -> Settings:
    """A machine's settings: its own disk, one mirror."""
    given = {"PRESET": "demo", "WORK_DIR": str(tmp_path / name), "MIRROR_CHECKPOINTS": str(tmp_path / "mirror")}
    return variables.load({**given, **more})


def prepared(settings: Settings, text: str = "codes") -> None:
    """What fetch and prepare leave."""
    paths = settings.paths
    for path in (paths.prepared / "train" / "0.parquet", paths.speakers, paths.prepared / "summary.json"):
        files.write_text(path, f"{text} of {path.name}")
    files.write_text(paths.manifest("train"), "{}\n")
    for one in (FETCH, PREPARE):
        finish(settings, one)


def finish(settings: Settings, one: Any, **counts: int) -> None:
    values = pipeline.stage_values(settings, one)
    now = pipeline.fingerprint(settings, one, values)
    made = {"fingerprint": now, "outputs": [], "counts": counts, "contents": one.contents(settings.paths)}
    state.write(settings.paths.state, one.name, values=values, started=0.0, **made)


def checkpoint(settings: Settings, step: int, key: str = "one run") -> None:
    """What training leaves after a step."""
    paths = settings.paths
    for log in (paths.training_log, paths.validation_log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as file:
            file.write(f"{step}\n")
    logs = {log.name: log.stat().st_size for log in (paths.training_log, paths.validation_log)}
    files.write_text(paths.best / "model.safetensors", f"best until {step}")
    files.write_text(paths.best / "training_state.json", "{}")

    def fill(target: Path) -> None:
        (target / "trained.safetensors").write_text(f"weights after {step}")
        files.write_json(target / "state.json", {"step": step, "key": key, "logs": logs})

    files.replace_directory(paths.output / f"checkpoint-{step}", fill)


def train(settings: Settings, *steps: int, seen: bool = True, key: str = "one run") -> None:
    """A training that saves checkpoints and is then stopped; each is mirrored before the next with `seen`."""
    with Mirror(settings) as mirror:
        mirror.before(TRAIN)
        for step in steps:
            checkpoint(settings, step, key)
            if seen:
                wait_for(settings, f"checkpoint-{step}")


def wait_for(settings: Settings, name: str) -> None:
    deadline = time.monotonic() + 30
    while not (found := list(Path(str(settings.mirror_checkpoints)).glob(f"*/{name}.json"))):
        assert time.monotonic() < deadline, name
        time.sleep(0.005)
    assert json.loads(found[0].read_bytes())


def go_on(settings: Settings) -> list[str]:
    """A run on another machine, up to the first step of training; the checkpoints it then has."""
    with Mirror(settings) as mirror:
        for one in (FETCH, PREPARE, TRAIN):
            mirror.before(one)
    return sorted(path.name for path in settings.paths.output.glob("checkpoint-*"))


def test_an_empty_disk_gets_data_and_the_newest_checkpoint(tmp_path: Path, capsys: Any) -> None:
    """Under another path, with its logs as long as they were at that step; fetch and prepare count as done there."""
    old, new = machine(tmp_path, "old"), machine(tmp_path, "new")
    prepared(old)
    train(old, FIRST, SECOND)
    with open(old.paths.training_log, "a") as log:
        log.write("a later step\n")
    capsys.readouterr()
    assert go_on(new) == [f"checkpoint-{SECOND}"]
    assert (new.paths.output / f"checkpoint-{SECOND}/trained.safetensors").read_text() == f"weights after {SECOND}"
    assert (new.paths.best / "model.safetensors").read_text() == f"best until {SECOND}"
    assert new.paths.training_log.read_text() == f"{FIRST}\n{SECOND}\n"
    assert (new.paths.prepared / "train/0.parquet").read_text() == "codes of 0.parquet"
    assert all(pipeline._due(new, one, pipeline.stage_values(new, one)) is None for one in (FETCH, PREPARE))
    assert not list(new.paths.work.rglob(".mirror"))
    said = capsys.readouterr().out
    assert said.count("bringing back prepared") == 1 and said.count(f"bringing back checkpoint-{SECOND}") == 1


def train_to_the_end(one: Settings, mirror: Mirror) -> None:
    mirror.before(TRAIN)
    checkpoint(one, FIRST)
    files.write_text(one.paths.last / "training_state.json", "{}")
    finish(one, TRAIN, steps=THIRD)
    mirror.after(TRAIN)


def test_a_finished_training_is_not_taken_again(tmp_path: Path) -> None:
    """The model as training left it, even though a later stage has changed it meanwhile."""
    old, new = machine(tmp_path, "old"), machine(tmp_path, "new")
    prepared(old)
    with Mirror(old) as mirror:
        train_to_the_end(old, mirror)
        files.write_text(old.paths.best / "README.md", "a card")
        files.write_text(old.paths.best / "model.safetensors", "chosen by judges")
    assert go_on(new) == []
    assert (new.paths.best / "model.safetensors").read_text() == f"best until {FIRST}"
    assert not (new.paths.best / "README.md").exists()
    assert pipeline._due(new, TRAIN, pipeline.stage_values(new, TRAIN)) is None


def test_a_night_with_nothing_new_asks_the_mirror_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of a bucket costs requests, and the run waits for it; what has gone from it is noticed all the same."""
    old = machine(tmp_path, "old")
    prepared(old)
    with Mirror(old) as mirror:
        train_to_the_end(old, mirror)
    listings, ask = [], FolderMirror.listing
    monkeypatch.setattr(FolderMirror, "listing", lambda mirror: listings.append(mirror) or ask(mirror))
    go_on(old)
    assert len(listings) == 1
    there = [*(tmp_path / "mirror").glob("data-*/prepared.json"), *(tmp_path / "mirror").glob("run-*/trained.json")]
    for path in there:
        path.unlink()
    go_on(old)
    assert len(there) == 2 and all(path.is_file() for path in there)


def test_prepared_data_is_read_once_in_a_run_to_tell_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By prepare, by the mirror and by training; and again when it is changed, whatever its size and time say."""
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    read, open_binary = Counter[Path](), inside.open_binary
    monkeypatch.setattr(inside, "open_binary", lambda path: read.update([path]) or open_binary(path))
    old = machine(tmp_path, "old")
    prepared(old)
    with Mirror(old) as mirror:
        mirror.after(PREPARE)
        mirror.before(TRAIN)
        before = agreement.basis_of(old, tmp_path)
    of_prepared = {path: count for path, count in read.items() if path.is_relative_to(old.paths.prepared)}
    assert len(of_prepared) == 3 and set(of_prepared.values()) == {1}, of_prepared
    status = old.paths.speakers.stat()
    with open(old.paths.speakers, "r+b") as file:
        file.write(b"C")
    os.utime(old.paths.speakers, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert agreement.basis_of(old, tmp_path).data != before.data


def test_a_training_that_a_new_revision_leaves_as_it_is_is_in_the_mirror_for_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source's new revision is another run; where it changes no contents, nobody trains, nor need a new machine."""
    old, new = machine(tmp_path, "old"), machine(tmp_path, "new")
    monkeypatch.setattr(identity.fetch, "revision", lambda settings, source: "c0ffee")
    prepared(old)
    with Mirror(old) as mirror:
        train_to_the_end(old, mirror)
    monkeypatch.setattr(identity.fetch, "revision", lambda settings, source: "beef")
    for one in (FETCH, PREPARE):
        finish(old, one)
    assert returning.is_current(old, "train"), "or the test has nothing to show"
    go_on(old)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "mirror").glob("run-*/trained.json")}
    assert len(kept) == 2
    assert go_on(new) == [] and (new.paths.best / "model.safetensors").read_text() == f"best until {FIRST}"
    assert pipeline._due(new, TRAIN, pipeline.stage_values(new, TRAIN)) is None
    files.write_text(old.paths.best / "model.safetensors", "chosen by judges")
    go_on(old)
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items()), "what is there stays as it is"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"LEARNING_RATE": "1e-6"}, "its checkpoints are of other settings or data"),
        ({"MAX_SECONDS": "7"}, "its prepared data are of other settings or data"),
    ],
)
def test_what_is_of_another_run_is_left_out_in_a_line(
    tmp_path: Path, capsys: Any, other: dict[str, str], said: str
) -> None:
    """And stays where it is: the run it belongs to may go on."""
    old, new = machine(tmp_path, "old"), machine(tmp_path, "new", **other)
    prepared(old)
    train(old, FIRST)
    capsys.readouterr()
    with Mirror(new) as mirror:
        mirror.before(FETCH)
        if not new.paths.prepared.exists():
            prepared(new)
        mirror.before(TRAIN)
    assert not list(new.paths.output.glob("checkpoint-*"))
    assert capsys.readouterr().out.count(said) == 1
    assert go_on(machine(tmp_path, "third")) == [f"checkpoint-{FIRST}"]


def test_checkpoints_of_other_data_are_left_out(tmp_path: Path, capsys: Any) -> None:
    """Data that was prepared anew on this machine: the steps were taken on other rows."""
    old, new = machine(tmp_path, "old"), machine(tmp_path, "new")
    prepared(old)
    train(old, FIRST)
    prepared(new, text="other codes")
    assert go_on(new) == []
    assert "1 checkpoints there are of other prepared data" in capsys.readouterr().out


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path: Path, capsys: Any) -> None:
    old, new = machine(tmp_path, "old"), machine(tmp_path, "new")
    prepared(old)
    train(old, FIRST, SECOND)
    for path in (tmp_path / "mirror").glob("run-*/objects/*"):
        if path.read_bytes() == f"weights after {SECOND}".encode():
            path.write_bytes(f"Weights after {SECOND}".encode())
    assert go_on(new) == [f"checkpoint-{FIRST}"]
    assert f"checkpoint-{SECOND} is left out: " in capsys.readouterr().err


def test_a_disk_that_has_got_further_is_left_alone(tmp_path: Path) -> None:
    here = machine(tmp_path, "here")
    prepared(here)
    train(here, FIRST)
    checkpoint(here, SECOND)  # saved, and the machine restarted before it was mirrored
    assert go_on(here) == [f"checkpoint-{FIRST}", f"checkpoint-{SECOND}"]
    assert go_on(machine(tmp_path, "here", FORCE="true"))[-1] == f"checkpoint-{SECOND}"
    assert go_on(machine(tmp_path, "new", RESUME="never")) == []


def test_only_the_newest_few_are_kept(tmp_path: Path) -> None:
    """SAVE_TOTAL_LIMIT, and none of a run on other weights that had the same settings."""
    old = machine(tmp_path, "old", SAVE_TOTAL_LIMIT="2")
    prepared(old)
    train(old, FIRST, SECOND, THIRD)
    mirror = tmp_path / "mirror"
    assert sorted(p.stem for p in mirror.glob("run-*/*.json")) == [f"checkpoint-{SECOND}", f"checkpoint-{THIRD}"]
    train(old, THIRD + 2, key="another base")
    assert sorted(p.stem for p in mirror.glob("run-*/*.json")) == [f"checkpoint-{THIRD + 2}"]
    kept = [path.read_text() for path in mirror.glob("run-*/objects/*.safetensors")]
    assert sorted(kept) == [f"best until {THIRD + 2}", f"weights after {THIRD + 2}"]


def test_a_failing_mirror_is_a_line_each_time_and_never_ends_a_run(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer checkpoint takes the place of one that still waits, and goes up once the mirror is back."""
    old = machine(tmp_path, "old")
    prepared(old)
    train(old)
    write = FolderMirror._write
    failing = True

    def sometimes(self: FolderMirror, name: str, source: Any) -> None:
        if failing:
            raise OSError(28, "No space left on device")
        write(self, name, source)

    monkeypatch.setattr(FolderMirror, "_write", sometimes)
    capsys.readouterr()
    with Mirror(old) as mirror:
        mirror.before(TRAIN)
        checkpoint(old, FIRST)
        said = ""
        while said.count("checkpoint-2 could not be copied: ") < 2:
            time.sleep(0.01)
            said += capsys.readouterr().err
        checkpoint(old, SECOND)
        while "checkpoint-4 could not be copied: " not in said:
            time.sleep(0.01)
            said += capsys.readouterr().err
        failing = False
    assert [path.stem for path in (tmp_path / "mirror").glob("run-*/*.json")] == [f"checkpoint-{SECOND}"]
    assert all(line.startswith("[mirror] warning: checkpoint-") for line in said.splitlines())
    assert not list(old.paths.output.glob(".mirror"))


def test_a_mirror_that_does_not_answer_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new machine must not begin anew while hours of training are there: exit code 1, to be tried again."""
    old = machine(tmp_path, "old")
    prepared(old)
    train(old, FIRST)

    def down(self: FolderMirror) -> dict[str, int]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(FolderMirror, "listing", down)
    with pytest.raises(Unreachable, match="Input/output error; try again later") as refusal:
        go_on(machine(tmp_path, "new"))
    assert refusal.value.exit_code == 1
    assert go_on(old) == [f"checkpoint-{FIRST}"], "here there is something to resume from"


def test_after_a_signal_the_end_waits_only_as_long_as_it_may(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be sent in GRACE_SECONDS is not waited for; the one before it is still whole."""
    old = machine(tmp_path, "old")
    prepared(old)
    train(old, FIRST)
    monkeypatch.setattr(FolderMirror, "_write", lambda *_: time.sleep(1.0))
    monkeypatch.setattr(stopping, "remaining", lambda: background.MARGIN + 0.05)
    train(old, SECOND, seen=False)
    assert "the newest state is not there" in capsys.readouterr().err
    assert go_on(machine(tmp_path, "new")) == [f"checkpoint-{FIRST}"]


def test_an_end_that_waits_for_long_says_so(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an hour without a line counts as a hang."""
    old = machine(tmp_path, "old")
    prepared(old)
    train(old)
    write = FolderMirror._write

    def slowly(self: FolderMirror, name: str, source: Any) -> None:
        time.sleep(0.1)
        write(self, name, source)

    monkeypatch.setattr(FolderMirror, "_write", slowly)
    monkeypatch.setattr(background, "LINE", 0.05)
    train(old, FIRST, seen=False)
    assert "[mirror] still copying" in capsys.readouterr().out


def test_a_signal_while_the_end_waits_leaves_the_time_that_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first SIGTERM may come when nothing but the mirror is left to do."""
    old = machine(tmp_path, "old")
    prepared(old)
    train(old)
    write, begun = FolderMirror._write, threading.Event()

    def slowly(self: FolderMirror, name: str, source: Any) -> None:
        if self._root.is_relative_to(tmp_path):  # a thread that an earlier test has left may still write into its own
            begun.set()
        time.sleep(0.1)
        write(self, name, source)

    def stop(number: int, frame: object) -> None:  # the job's own handler would end this process later, by force
        raise StoppedBySignal("stopped by SIGTERM")

    def ask() -> None:
        begun.wait(30)
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(FolderMirror, "_write", slowly)
    monkeypatch.setattr(stopping, "remaining", lambda: 30.0)
    before = signal.signal(signal.SIGTERM, stop)
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with pytest.raises(StoppedBySignal):
            train(old, FIRST, seen=False)
    finally:
        asking.join()
        signal.signal(signal.SIGTERM, before)
    assert go_on(machine(tmp_path, "new")) == [f"checkpoint-{FIRST}"]


def test_when_data_must_be_prepared_again_the_recordings_are_fetched_again(tmp_path: Path) -> None:
    """What came from the mirror has no recordings with it, so fetch does not count as done any longer."""
    old, new = machine(tmp_path, "old"), machine(tmp_path, "new")
    prepared(old)
    train(old)
    go_on(new)
    files.write_text(new.paths.edits, '{"id": "x", "drop": true}\n')
    go_on(new)
    assert pipeline._due(new, FETCH, pipeline.stage_values(new, FETCH)) is not None


def test_a_persons_edits_are_not_written_over(tmp_path: Path, capsys: Any) -> None:
    old, new = machine(tmp_path, "old"), machine(tmp_path, "new")
    prepared(old)
    train(old)
    files.write_text(new.paths.edits, '{"id": "x", "drop": true}\n')
    go_on(new)
    assert not new.paths.prepared.exists()
    assert "its prepared data are from before" in capsys.readouterr().out


def test_a_dataset_whose_hub_is_down_for_a_while_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps taken meanwhile on this disk are found again by a machine that reaches the Hub."""
    here = machine(tmp_path, "here", DATASET_NAME="alice/voices")
    monkeypatch.setattr(hub_dataset, "commit", lambda settings: "c0ffee")
    with_hub = identity.data_folder(here)
    assert with_hub != identity.data_folder(machine(tmp_path, "elsewhere", DATASET_NAME="alice/voices", MAX_HOURS="1"))
    files.write_json(here.paths.state / "fetch.json", {"counts": {"revision": "c0ffee"}})
    monkeypatch.setattr(hub_dataset, "commit", lambda settings: None)
    assert identity.data_folder(here) == with_hub
