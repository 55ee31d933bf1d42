"""Writing: a kill at any instant leaves the old contents or the new ones, never half of either."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from job.core import files

ROOT = Path(__file__).parent.parent


def test_a_failed_write_leaves_the_old_file(tmp_path):
    """The old contents stay, and the temporary file is gone."""
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_with(path, fail)
    assert files.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_directory_leaves_the_old_one(tmp_path):
    """The same for a directory that is replaced as a whole."""
    target = tmp_path / "best"
    files.replace_directory(target, lambda d: (d / "x").write_text("old"))

    def fail(directory):
        (directory / "x").write_text("new")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        files.replace_directory(target, fail)
    assert (target / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("call", range(1, 5))
def test_a_kill_between_any_two_steps_of_a_swap_loses_nothing(tmp_path, call):
    """The process dies at the n-th rename or removal: the next `replace_directory` or `recover_directory` finds a whole
    version."""
    target = tmp_path / "best"
    files.replace_directory(target, lambda d: (d / "x").write_text("old"))
    code = f"""
import os, shutil, sys
from pathlib import Path
from job.core import files
calls = 0
def dying(function):
    def wrapped(*arguments, **named):
        global calls
        calls += 1
        if calls == {call}:
            os._exit(9)
        return function(*arguments, **named)
    return wrapped
os.replace = dying(os.replace)
shutil.rmtree = dying(shutil.rmtree)
files.replace_directory(Path({str(target)!r}), lambda d: (d / "x").write_text("new"))
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    files.recover_directory(target)
    assert (target / "x").read_text() in ("old", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["best"]
    files.replace_directory(target, lambda d: (d / "x").write_text("newest"))
    assert (target / "x").read_text() == "newest"


def test_identity_of_inputs(tmp_path):
    """A touched small file is the same, a changed one is not; a file that comes or goes changes its folder."""
    path = tmp_path / "rows.jsonl"
    path.write_text("a")
    before, folder = files.identity(path), files.identity(tmp_path)
    os.utime(path, (1, 1))
    assert files.identity(path) == before
    path.write_text("b")
    assert files.identity(path) != before
    assert files.identity(tmp_path) != folder
    assert files.identity(tmp_path / "none") == files.identity(tmp_path / "none")
