"""A signal is a signal, whatever libraries make of the exception that it raises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = """
import os, signal, sys
from job import cli, pipeline

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

work = globals()[sys.argv.pop()]
pipeline.run = lambda *_: work()
cli.main()
"""


def run(work: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CODE, "doctor", work]
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
