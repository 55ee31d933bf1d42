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
from job.errors import BAD_INPUT, STOPPED_BY_SIGNAL  # noqa: E402
from job.publish.redact import one_line  # noqa: E402

ACTIONS = {"stop": runpod.stop_pod, "terminate": runpod.terminate_pod, "keep": None}
#: Attempts at ending the Pod, and seconds before the second; every wait doubles the last.
ATTEMPTS, FIRST_WAIT = 6, 5.0


def main() -> int:
    """Run the job, then end the Pod. Returns the job's exit code where there is no Pod to end."""
    after = os.environ.get("POD_AFTER", "stop")
    if after not in ACTIONS:
        print(f"error: POD_AFTER={after}: must be one of {', '.join(ACTIONS)}", file=sys.stderr, flush=True)
        return BAD_INPUT
    code, stopped = run(sys.argv[1:])
    pod, key = os.environ.get("RUNPOD_POD_ID"), os.environ.get("RUNPOD_API_KEY")
    if stopped or not pod:
        return code
    print(f"[pod] the run ended with exit code {code}", flush=True)
    if after != "keep" and key and end(after, pod, key):
        return wait(code)
    print("[pod] this Pod is still there and still costs money: stop it when you have what you need", flush=True)
    return wait(code)


def run(arguments: list[str]) -> tuple[int, bool]:
    """Run entrypoint.sh without RunPod's keys. Returns its exit code, and whether a signal was passed on to it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RUNPOD_")}
    environment.setdefault("CONSOLE_LOG", str(Path(environment.get("WORK_DIR") or "work") / "console_log.txt"))
    stopped = False
    job: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        if job is not None:
            job.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    if stopped:
        return STOPPED_BY_SIGNAL, True
    job = subprocess.Popen([str(TOP / "entrypoint.sh"), *arguments], env=environment, start_new_session=True)
    if stopped:
        job.terminate()
    code = job.wait()
    return (128 - code if code < 0 else code), stopped


def end(action: str, pod: str, key: str) -> bool:
    """Ask RunPod to stop or terminate this Pod. Returns whether it agreed."""
    runpod.api_key = key
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ACTIONS[action](pod)
        except Exception as error:
            print(f"[pod] {action}: {one_line(error, [key])} (attempt {attempt} of {ATTEMPTS})", flush=True)
            if attempt < ATTEMPTS:
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
        else:
            print(f"[pod] asked RunPod to {action} this Pod", flush=True)
            return True
    return False


def wait(code: int) -> int:
    """Wait until the container is taken away: if it ended, it would be started again, and run again."""
    ended = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        ended = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    while not ended:
        time.sleep(0.5)
    return code


if __name__ == "__main__":
    sys.exit(main())
