"""One unattended run in a RunPod Pod, after which the Pod stops itself and costs nothing more.

    python runpod/pod.py [arguments of `python -m job`; none means run]

RunPod starts a container that has ended again. So this does not end: it asks RunPod to stop the Pod, through the SDK
and with the key that every Pod has (RUNPOD_API_KEY), and waits for that. POD_AFTER says what to do when the run has
ended, well or not: `stop` (the default; the disk is kept), `terminate` (everything but a network volume is lost) or
`keep`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

TOP = Path(__file__).resolve().parents[1]
sys.path.append(str(TOP))  # last, so that this folder's name does not hide the SDK

import runpod  # noqa: E402
from job.config.quoting import plain  # noqa: E402
from job.core.errors import BAD_INPUT, STOPPED_BY_SIGNAL, BadInput  # noqa: E402
from job.core.redact import one_line  # noqa: E402

ACTIONS = {"stop": runpod.stop_pod, "terminate": runpod.terminate_pod, "keep": None}
#: Attempts at ending the Pod, and seconds before the second; every wait doubles the last.
ATTEMPTS, FIRST_WAIT = 6, 5.0
#: Seconds between two looks at whether a signal came (a sleep resumes after one).
PAUSE = 0.5


def main() -> int:
    """Run the job, then end the Pod. Returns the job's exit code where there is no Pod to end."""
    after = plain("POD_AFTER", os.environ.get("POD_AFTER", "stop"))
    if after not in ACTIONS:
        print(f"error: POD_AFTER={after}: must be one of {', '.join(ACTIONS)}", file=sys.stderr, flush=True)
        return BAD_INPUT
    signals = Signals()
    code = run(sys.argv[1:], signals)
    pod, key = os.environ.get("RUNPOD_POD_ID"), os.environ.get("RUNPOD_API_KEY")
    if signals.seen or not pod:
        return code
    print(f"[pod] the run ended with exit code {code}", flush=True)
    if not (after != "keep" and key and end(after, pod, key, signals)):
        print("[pod] this Pod is still there and still costs money: stop it when you have what you need", flush=True)
    # If the container ended now it would be started again, and run again: it is RunPod that takes it away.
    while not signals.seen:
        time.sleep(PAUSE)
    return code


class Signals:
    """Remembers that SIGTERM or SIGINT came, at any time from now on, and passes it on to the job while there is one.

    One handler for the whole life: where one took over from another, a signal in between would be lost.
    """

    def __init__(self) -> None:
        self.seen = False
        self.job: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        if self.job is not None:
            self.job.send_signal(number)


def run(arguments: list[str], signals: Signals) -> int:
    """Run entrypoint.sh without RunPod's keys. Returns its exit code."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RUNPOD_")}
    environment.setdefault(
        "CONSOLE_LOG", str(Path(plain("WORK_DIR", environment.get("WORK_DIR", "")) or "work") / "console_log.txt")
    )
    if signals.seen:
        return STOPPED_BY_SIGNAL
    job = signals.job = subprocess.Popen(
        [str(TOP / "entrypoint.sh"), *arguments], env=environment, start_new_session=True
    )
    if signals.seen:
        job.terminate()
    code = job.wait()
    return 128 - code if code < 0 else code


def end(action: str, pod: str, key: str, signals: Signals) -> bool:
    """Ask RunPod to stop or terminate this Pod, until it agrees or a signal comes. Returns whether it agreed."""
    runpod.api_key = key
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ACTIONS[action](pod)
        except Exception as error:
            print(f"[pod] {action}: {one_line(error, [key])} (attempt {attempt} of {ATTEMPTS})", flush=True)
            again = time.monotonic() + FIRST_WAIT * 2 ** (attempt - 1)
            while attempt < ATTEMPTS and not signals.seen and time.monotonic() < again:
                time.sleep(PAUSE)
            if signals.seen:
                return False
        else:
            print(f"[pod] asked RunPod to {action} this Pod", flush=True)
            return True
    return False


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(BAD_INPUT)
