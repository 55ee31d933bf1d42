"""What the tests of the RunPod worker share: the SDK's own environment, and a checkout with a stand-in job.

The SDK cannot be installed beside the job (see runpod/requirements.in), so it has an environment of its own in
runpod/.venv: the first of these tests makes it where it is missing or older than its lock.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runpod_handler.worker import RUNPOD, TOP, House

sys.path.append(str(RUNPOD))  # handler_request and its neighbours


@pytest.fixture(scope="session")
def sdk() -> Path:
    """A Python with exactly what runpod/requirements.lock names."""
    lock, environment = RUNPOD / "requirements.lock", RUNPOD / ".venv"
    done = environment / "requirements.lock"
    python = environment / "bin" / "python"
    if not (done.is_file() and done.read_bytes() == lock.read_bytes() and python.exists()):
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=120)
        install = ["sh", TOP / "scripts" / "install-locked.sh", python, lock]
        subprocess.run(install, check=True, timeout=600, cwd=TOP)
        shutil.copy2(lock, done)
    return python


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A checkout whose job behaves as its stand-in is told: everything else is real."""
    return House(tmp_path)
