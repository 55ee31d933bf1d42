"""Memory stays flat as the rows grow: fetch, prepare and training's data path, at 10,000 and at 100,000 rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "scale.py"


@pytest.mark.thorough
def test_ten_times_the_rows_take_at_most_a_fifth_more_memory(tmp_path: Path) -> None:
    """Through the real stages, each in a process of its own; 3 % of the rows are recordings, the others come encoded.

    Most of the peak is the interpreter, torch and the model's code. So what a row adds is bounded as well.
    """
    command = [
        sys.executable,
        str(BENCHMARK),
        "--rows",
        "10000",
        "100000",
        "--encoded",
        "0.97",
        "--work",
        str(tmp_path),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    cases = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    peaks = {(case["case"], case["rows"]): case["peak"] for case in cases}
    assert len(peaks) == 6
    for stage in ("fetch", "prepare", "train"):
        few, many = peaks[stage, 10_000], peaks[stage, 100_000]
        assert many <= 1.2 * few, stage
        assert (many - few) / 90_000 < 1200, stage  # bytes a row
