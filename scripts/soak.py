"""Run the job again and again, each time killed (SIGKILL) or stopped (SIGTERM) at random moments until it is done.

For SOAK_MINUTES (30). Whatever the moments, a run must end with the files of an undisturbed one, and SIGTERM must end
it in time. Prints one JSON line a run; ends with 1 at the first broken promise. SOAK_SEED repeats the same moments.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.disturbed import RUN, Run, compare, disturb

#: Most hits on one run.
HITS = 20


def main() -> None:
    """Soak until the time is over; the run in progress is finished first."""
    seed = int(os.environ.get("SOAK_SEED") or time.time())
    end = time.monotonic() + 60 * float(os.environ.get("SOAK_MINUTES") or 30)
    dice = random.Random(seed)
    print(json.dumps({"seed": seed}), flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        undisturbed = Run(Path(directory) / "undisturbed", RUN)
        undisturbed.finish()
        number = 0
        while number == 0 or time.monotonic() < end:
            number += 1
            run = Run(Path(directory) / f"run-{number}", RUN)
            kind = dice.choice((signal.SIGKILL, signal.SIGTERM))
            started = time.monotonic()
            try:
                hits = disturb(run, undisturbed, dice, kind, HITS)
                compare(run, undisturbed)
                if run.slowest_stop > 25:
                    raise AssertionError(f"SIGTERM took {run.slowest_stop:.1f} s after {run.hits}")
            except AssertionError as broken:
                print(broken, file=sys.stderr)
                sys.exit(1)
            seconds = round(time.monotonic() - started, 1)
            slowest = round(run.slowest_stop, 1)
            line = {"run": number, "signal": kind.name, "hits": hits, "seconds": seconds, "slowest_stop": slowest}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
