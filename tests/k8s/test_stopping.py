"""`terminationGracePeriodSeconds` against the real job: Kubernetes kills what has not ended by then."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from job.core import errors
from tests.k8s.manifests import JOBS, TOP, template


@pytest.mark.slow
def test_the_job_stops_well_within_the_grace_period(rendered, tmp_path: Path) -> None:
    """Stopped while it trains, it ends with the code that is not counted against it, in a fifth of the time at most."""
    grace = min(template(rendered[overlay])["spec"]["terminationGracePeriodSeconds"] for overlay in JOBS)
    log = tmp_path / "log.txt"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "PRESET": "demo",
        "WORK_DIR": str(tmp_path / "run"),
        "CONSOLE_LOG": str(log),
    }
    job = subprocess.Popen(
        [TOP / "entrypoint.sh", "run", "--until", "train"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        training = tmp_path / "run/output/training_log.jsonl"
        deadline = time.monotonic() + 300
        while not training.exists() and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        assert training.exists() and job.poll() is None, log.read_text()
        job.send_signal(signal.SIGTERM)
        stopped = time.monotonic()
        assert job.wait(timeout=grace) == errors.STOPPED_BY_SIGNAL, log.read_text()
        assert time.monotonic() - stopped < grace / 5
    finally:
        if job.poll() is None:
            job.send_signal(signal.SIGTERM)
            job.wait(timeout=60)
