"""Training of the tiny built-in model alone, and twice at once on the same two cores.

    python benchmarks/shared_cpus.py [--runs 3] [--steps 60] [--spins 300000]

Shared cores are what a pod with a CPU limit has, or a computer that is in use. Two runs at once should take at most
twice as long as one; threads that hold a core while they wait for each other make it many times as long. Seconds are
those between the first and the last line of `training_log.jsonl`, so that start-up is left out; medians over the runs,
alone and at once in turns. `--spins` sets GOMP_SPINCOUNT, to compare: OpenMP's own number is 300000.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
#: Cores that all runs share.
CORES = 2
#: A run that takes longer is ended.
LIMIT = 900.0


def start(work: Path, arguments: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    """The job in a process of its own, on the first `CORES` cores."""
    environment = {**os.environ, **variables, "WORK_DIR": str(work), "PYTHONPATH": str(TOP)}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    return subprocess.Popen(
        [sys.executable, "-m", "job", *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def seconds_of(prepared: Path, count: int, variables: dict[str, str]) -> list[float]:
    """Seconds of training of each of `count` runs that begin together."""
    works = [prepared.with_name(f"run-{number}") for number in range(count)]
    for work in works:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(prepared, work)
    runs = [start(work, ["train"], variables) for work in works]
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    end = time.monotonic() + LIMIT
    try:
        while len(last) < count:
            for number, work in enumerate(works):
                log = work / "output" / "training_log.jsonl"
                lines = log.read_bytes().count(b"\n") if log.exists() else 0
                if lines:
                    first.setdefault(number, time.monotonic())
                if lines > 1 and json.loads(log.read_bytes().splitlines()[-1])["step"] == int(variables["MAX_STEPS"]):
                    last.setdefault(number, time.monotonic())
                if number not in last and (runs[number].poll() is not None or time.monotonic() > end):
                    raise SystemExit(f"a run ended before its last step, or took over {LIMIT:g} s")
            time.sleep(0.02)
        for run in runs:
            run.communicate()
    finally:
        for run in runs:
            if run.poll() is None:
                run.kill()
                run.wait()
    return [last[number] - first[number] for number in range(count)]


def main() -> None:
    """Print the case as a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--spins", help="GOMP_SPINCOUNT; unset, the job's")
    options = parser.parse_args()
    variables = {"PRESET": "demo", "DEVICE": "cpu", "PROBE_SENTENCES": "0", "MAX_STEPS": str(options.steps)}
    if options.spins:
        variables["GOMP_SPINCOUNT"] = options.spins
    alone, together = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as directory:
        prepared = Path(directory) / "prepared"
        made = start(prepared, ["run", "--until", "prepare"], variables)
        _, errors = made.communicate()
        if made.returncode:
            raise SystemExit(errors.decode())
        for _ in range(options.runs):
            alone += seconds_of(prepared, 1, variables)
            together.append(max(seconds_of(prepared, 2, variables)))
    one, two = statistics.median(alone), statistics.median(together)
    figures = {"alone": round(one, 1), "two_at_once": round(two, 1), "ratio": round(two / one, 2)}
    spread = {"all_alone": [round(s, 1) for s in alone], "all_two_at_once": [round(s, 1) for s in together]}
    name = f"{options.steps} training steps of the tiny model, seconds"
    print(json.dumps({"case": name, "device": f"cpu, {CORES} cores", **figures, **spread}))


if __name__ == "__main__":
    main()
