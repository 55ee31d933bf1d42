"""Run the demo again and again, each time stopped (SIGTERM) and killed (SIGKILL) at random moments until it is done.

For SOAK_MINUTES (30). A stopped run must end with 143, a finished one with 0, and whatever a kill left behind must not
keep the next start from going on. Prints one JSON line a finished demo; ends with 1 at the first broken promise.
SOAK_SEED repeats the same moments.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import psutil

TOP = Path(__file__).resolve().parents[1]
STOPPED = 143
SECONDS_TO_STOP = 60


def main() -> None:
    """Soak until the time is over; the demo in progress is finished first."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seed = int(os.environ.get("SOAK_SEED") or time.time())
    end = time.monotonic() + 60 * float(os.environ.get("SOAK_MINUTES") or 30)
    dice = random.Random(seed)
    print(json.dumps({"seed": seed}), flush=True)
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory(prefix="soak-") as directory:
            print(json.dumps(one_demo(Path(directory), dice)), flush=True)


def one_demo(work: Path, dice: random.Random) -> dict[str, float]:
    """Start the demo until it is done, interrupting it ever later. Returns what it took."""
    started = time.monotonic()
    stops = kills = 0
    patience = 20.0
    while True:
        run = start(work)
        try:
            code = run.wait(timeout=dice.uniform(0.5, patience))
        except KeyboardInterrupt:
            kill(run)
            raise
        except subprocess.TimeoutExpired:
            patience *= 1.5
            if dice.random() < 0.5:
                kills += 1
                kill(run)
                continue
            stops += 1
            code = stop(run, work)
            if code == STOPPED:
                continue
        if code != 0:
            fail(f"exit code {code} after {stops} stops and {kills} kills", work)
        return {"stops": stops, "kills": kills, "seconds": round(time.monotonic() - started, 1)}


def start(work: Path) -> subprocess.Popen[bytes]:
    """Start the demo as a container would."""
    environment = {**os.environ, "WORK_DIR": str(work / "work"), "CONSOLE_LOG": str(work / "console_log.txt")}
    command = [str(TOP / "entrypoint.sh"), "demo"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)


def stop(run: subprocess.Popen[bytes], work: Path) -> int:
    """Ask for an end, as a scheduler does; it has a minute."""
    run.terminate()
    try:
        return run.wait(timeout=SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        kill(run)
        fail(f"still running {SECONDS_TO_STOP} s after SIGTERM", work)


def kill(run: subprocess.Popen[bytes]) -> None:
    """End the run and all below it without a warning, as a lost machine does."""
    family = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    run.wait()


def fail(message: str, work: Path) -> NoReturn:
    """Show the end of the log and give up."""
    log = work / "console_log.txt"
    lines = log.read_text(errors="replace").splitlines()[-30:] if log.exists() else []
    print("\n".join([*lines, f"soak: {message}"]), file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
