"""Two runs on one work directory: the second refuses, and a dead one's lock is in nobody's way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from job.core import lock
from job.core.errors import BadInput
from job.core.lock import WorkLock
from tests.support.commands import run_job

ROOT = Path(__file__).parent.parent
HOLD = """
import sys, time
from pathlib import Path
from job.core.lock import WorkLock
with WorkLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path/state."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "state")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_second_run_refuses(holder, tmp_path, capsys):
    """Exit 2 with one line that names WORK_DIR and the other process; nothing is touched."""
    result = run_job(capsys, ["run"], {"PRESET": "demo", "WORK_DIR": tmp_path})
    assert result.code == 2
    assert len(result.errors) == 1
    assert "WORK_DIR" in result.errors[0]
    assert str(holder.pid) in result.errors[0]
    assert not (tmp_path / "data").exists()


def test_a_killed_runs_lock_is_taken_over(holder, tmp_path):
    """After SIGKILL the next run starts at once."""
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    started = time.monotonic()
    with WorkLock(tmp_path / "state"):
        pass
    assert time.monotonic() - started < 2
    assert not (tmp_path / "state" / "run.lock").exists()


def test_a_killed_run_that_nobody_has_noticed_yet(holder, tmp_path):
    """It has ended, its parent has not asked for its exit code, and the process is still in the table."""
    holder.send_signal(signal.SIGKILL)
    with WorkLock(tmp_path / "state"):
        assert json.loads((tmp_path / "state" / "run.lock").read_text())["process"] == os.getpid()


def test_a_process_id_that_was_given_out_again(tmp_path):
    """In a restarted container the old run's process id is somebody else's: the start time tells."""
    state = tmp_path / "state"
    state.mkdir()
    old = {"host": socket.gethostname(), "process": os.getpid(), "created": 1.0}
    (state / "run.lock").write_text(json.dumps(old))
    with WorkLock(state):
        assert json.loads((state / "run.lock").read_text())["created"] > 1.0


def test_two_containers_of_one_host_name(tmp_path, monkeypatch):
    """`--network host`: the other one's process ids mean nothing here, so its lock is watched for a touch."""
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("no new namespace can be made here")
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c"]
    beating = HOLD.replace("with WorkLock", "from job.core import lock\nlock.HEARTBEAT = 0.2\nwith WorkLock")
    other = subprocess.Popen([*command, beating, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match="in use by another run"), WorkLock(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    monkeypatch.setattr(lock, "WATCH", 1.0)
    with WorkLock(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["process"] == os.getpid()


@pytest.mark.parametrize("contents", [json.dumps({"host": "elsewhere", "process": 7, "created": 1.0}), "", "{torn"])
def test_a_lock_of_another_machine(tmp_path, monkeypatch, contents):
    """One that is touched while we watch is alive; one that is not is dead, whatever its time says."""
    monkeypatch.setattr(lock, "WATCH", 1.0)
    state = tmp_path / "state"
    state.mkdir()
    path = state / "run.lock"
    path.write_text(contents)
    os.utime(path, (2**33, 2**33))  # far in the future: clocks differ
    done = threading.Event()

    def touch():
        while not done.wait(0.2):
            os.utime(path)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(BadInput, match="in use by another run"), WorkLock(state):
            pass
    finally:
        done.set()
        thread.join()
    with WorkLock(state):
        pass


def test_the_owner_shows_that_it_lives(tmp_path, monkeypatch):
    """The lock is touched as long as it is held."""
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    with WorkLock(tmp_path) as held:
        os.utime(held.path, (1, 1))
        deadline = time.monotonic() + 5
        while held.path.stat().st_mtime < 100 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert held.path.stat().st_mtime > 100


@pytest.mark.slow
def test_of_many_that_come_at_once_one_gets_it(tmp_path):
    """Eight threads, one lock: one holds it, seven are refused."""
    outcomes = []
    together = threading.Barrier(8)
    release = threading.Event()

    def contend():
        together.wait()
        try:
            with WorkLock(tmp_path):
                outcomes.append("held")
                release.wait(90)
        except BadInput:
            outcomes.append("refused")

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while len(outcomes) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    release.set()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held"] + ["refused"] * 7


def test_a_work_directory_that_cannot_be_made_is_said_in_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        variables = {"WORK_DIR": place, "OUTPUT_DIR": tmp_path / "output", "INIT_MODEL_PATH": "demo", "DEVICE": "cpu"}
        done = run_job(capsys, ["run"], variables)
        assert done.code == 2
        assert done.err.splitlines()[-1:] == [
            f"error: WORK_DIR={place} is not writable: Not a directory; set another directory"
        ]


@pytest.mark.slow
def test_a_volume_without_hard_links(tmp_path, monkeypatch):
    """Where files cannot be linked, the lock is still one run's."""

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    with WorkLock(tmp_path), pytest.raises(BadInput, match="in use by another run"), WorkLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
