"""Start-up: from the start of `entrypoint.sh` to the first optimizer step, and where the time goes.

    python benchmarks/startup.py [--runs 5]

The tiny built-in model, one step; data are fetched and prepared by a run before, so that what is left is what every
start of a run pays for: the shell, Python, imports, checks, loading, the first step. Nothing is downloaded. Prints one
JSON line a part, medians over the runs, and one for the whole. The parts:

    shell      the entrypoint asks for its variables, sets up the log, and Python starts
    doctor     all checks; torch and transformers are imported here
    up to date fetch and prepare find that they have nothing to do
    set-up     training's imports, the base model, the rows, the adapters
    first step forward, backward, optimizer, and the log's first line
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from itertools import pairwise
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
PARTS = ("shell", "doctor", "up to date", "set-up", "first step")
#: The line that ends each part but the last.
ENDS = (r"\[doctor\] started", r"\[doctor\] done", r"\[train\] started", r"\[train\] speakers")


def one_start(work: Path) -> list[float]:
    """Seconds of each part."""
    leftovers = [work / "output", work / "state" / "train.json", work / "state" / "doctor.json"]
    for path in leftovers:
        subprocess.run(["rm", "-rf", str(path)], check=True)
    log = work / "output" / "training_log.jsonl"
    started = time.perf_counter()
    run = subprocess.Popen(
        [str(TOP / "entrypoint.sh"), "run", "--until", "train"],
        env=environment(work),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    marks = [started]
    for line in run.stdout:
        if len(marks) <= len(ENDS) and re.match(ENDS[len(marks) - 1], line):
            marks.append(time.perf_counter())
        if len(marks) > len(ENDS):
            break
    while not (log.exists() and log.stat().st_size):
        if run.poll() is not None:
            raise SystemExit(f"the run ended with {run.returncode} before its first step")
        time.sleep(0.005)
    marks.append(time.perf_counter())
    run.communicate()
    return [after - before for before, after in pairwise(marks)]


def environment(work: Path) -> dict[str, str]:
    """A run of one step on the CPU."""
    variables = {"PRESET": "demo", "DEVICE": "cpu", "MAX_STEPS": "1", "MAX_TRAIN_SAMPLES": "4", "PROBE_SENTENCES": "0"}
    return {**os.environ, **variables, "WORK_DIR": str(work), "CONSOLE_LOG": str(work / "console_log.txt")}


def main() -> None:
    """Print the parts as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        subprocess.run([TOP / "entrypoint.sh", "run", "--until", "train"], env=environment(work), check=True)
        runs = [one_start(work) for _ in range(options.runs)]
    for number, part in enumerate(PARTS):
        seconds = round(statistics.median(run[number] for run in runs), 2)
        print(json.dumps({"case": f"start-up, {part}", "device": "cpu", "seconds": seconds}))
    whole = round(statistics.median(sum(run) for run in runs), 2)
    print(json.dumps({"case": "start-up, container start to first step", "device": "cpu", "seconds": whole}))


if __name__ == "__main__":
    main()
