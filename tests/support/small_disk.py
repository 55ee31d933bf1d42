"""A disk of a given size, to be filled: a file system in memory, where mounting one is allowed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(path: Path, kilobytes: int, *, again: bool = False) -> None:
    """Mount a disk on a folder, or give the one that is there another size; skip the test where it is not allowed."""
    options = f"{'remount,' if again else ''}size={kilobytes}k"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")


def unmount(path: Path) -> None:
    """Take it away again, with all that is on it."""
    subprocess.run(["umount", path], check=True)


@contextmanager
def small_disk(path: Path, kilobytes: int) -> Iterator[Path]:
    """Make a folder that is a disk of its own; it is gone at the end."""
    path.mkdir()
    mount(path, kilobytes)
    try:
        yield path
    finally:
        unmount(path)
