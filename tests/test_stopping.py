"""A signal is a signal, whatever libraries make of the exception that it raises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = """
import errno, os, signal, sys, traceback
from job import cli, pipeline
from job.core import redact, stopping
from job.processes import joining

def stop():
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(100):
        pass

class Slot:
    def __set_name__(self, owner, name):
        stop()

def in_a_class():
    type("Owner", (), {"slot": Slot()})

def in_a_lazy_import():
    try:
        in_a_class()
    except BaseException as error:
        raise ModuleNotFoundError("Could not import module 'AutoModel'") from error

def in_a_check():
    try:
        in_a_class()
    except BaseException as error:
        raise cli.errors.BadInput("INIT_MODEL_PATH: cannot be read") from error

def by_itself():
    raise ModuleNotFoundError("no module of that name")

def lost():
    raise cli.errors.PeerLost("another process was lost; run the same command again")

def refused():
    raise cli.errors.BadInput("INIT_MODEL_PATH: cannot be read")

def disk_full():
    raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

def followed():
    raise cli.errors.FollowedRank(4)

def crashed():
    joining._abandoned = True  # others of the run still work
    raise RuntimeError("something else")

def done():
    pass

def while_it_ends():
    # a signal at each thing that is done once the work has ended
    for module, name in ((redact, "redact"), (traceback, "print_exception"), (sys, "exit")):
        def signalled(*args, then=getattr(module, name)):
            stop()
            return then(*args)
        setattr(module, name, signalled)

if sys.argv[-1] == "late":
    sys.argv.pop()
    while_it_ends()
    stopping._Watch._arrived = lambda *_: None  # several signals here; the second would end the process
work = globals()[sys.argv.pop()]
pipeline.run = lambda *_: work()
cli.main()
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CODE, "doctor", *words]
    return subprocess.run(command, cwd=ROOT, env={"PRESET": "demo"}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("work", ["in_a_class", "in_a_lazy_import", "in_a_check"])
def test_a_signal_that_a_library_wraps_is_still_143(work: str) -> None:
    """While modules are imported, Python makes a RuntimeError of it: that must not count as a crash of the run."""
    done = run(work)
    assert done.returncode == 143, done.stderr
    assert done.stderr == "error: stopped by SIGTERM; run the same command again to continue\n"


def test_an_error_without_a_signal_stays_what_it_is() -> None:
    done = run("by_itself")
    assert done.returncode == 1 and "ModuleNotFoundError: no module of that name" in done.stderr


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        ("lost", 143, "error: another process was lost; run the same command again\n"),
        ("refused", 2, "error: INIT_MODEL_PATH: cannot be read\n"),
        ("disk_full", 2, "error: No space left on device (model.safetensors); free some space or set WORK_DIR"),
        ("followed", 4, ""),
        ("done", 0, ""),
    ],
)
def test_a_signal_to_a_process_that_is_ending_changes_nothing(work: str, code: int, said: str) -> None:
    """A launcher ends all processes of a run when one is lost: those that are just saying so end as they would have."""
    done = run(work, "late")
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(said) and done.stderr.count("\n") == bool(said)


def test_a_signal_does_not_hide_a_crash() -> None:
    done = run("crashed", "late")
    assert done.returncode == 1, done.stderr
    assert "RuntimeError: something else" in done.stderr and "StoppedBySignal" not in done.stderr
