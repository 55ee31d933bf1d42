"""Runs of the whole job that are killed or stopped on the way, and what must be the same in the end.

Used by tests/test_killed.py for a few minutes and by `make soak` for as long as one likes.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
#: A run in which every stage has something to do and training keeps state of every kind.
RUN = {
    "PRESET": "demo",
    "DEVICE": "cpu",
    "MAX_TRAIN_SAMPLES": "6",
    "AUGMENT_VOLUME": "true",
    "MAX_STEPS": "16",
    "BATCH_SIZE": "2",
    "EVAL_STEPS": "4",
    "SAVE_STEPS": "2",
    "LOGGING_STEPS": "1",
    "TRAIN_MODE": "lora",
    "LORA_DROPOUT": "0.2",
    "SUB_TALKER_FRAME_FRACTION": "0.5",
    "TEST_TEXTS": "One.|Two.",
    "MAX_NEW_TOKENS": "6",
    "SYNTH_GATE": "off",
}
#: Where a run can be hit: before its first stage, and in each of them.
PLACES = ("start", "doctor", "fetch", "prepare", "train", "validate", "push", "synthesize", "report")
#: How often each is hit for once that `start` is: where there is more to lose, more often.
WEIGHTS = (1, 1, 1, 4, 8, 2, 1, 3, 1)
STARTED = re.compile(r"\[(\w+)\] started")
CHECKPOINT = re.compile(r"output/checkpoint-\d+/\w+\.(json|safetensors)")
DONE = re.compile(r"\[(\w+)\] done in ([\d.]+) s")


@dataclass
class Run:
    """A work directory and what has happened to it; `until` is the last stage that is run."""

    work: Path
    variables: dict[str, str]
    until: str = PLACES[-1]
    hits: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    slowest_stop: float = 0.0

    def start(self) -> subprocess.Popen[str]:
        """The job, in a process group of its own."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
        return subprocess.Popen(
            [sys.executable, "-m", "job", "run", "--until", self.until],
            env={**kept, **self.variables, "WORK_DIR": str(self.work), "PYTHONUNBUFFERED": "1"},
            cwd=TOP,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> str:
        """Run to the end, undisturbed; the seconds of each stage are kept. Returns what was said."""
        process = self.start()
        said = process.communicate(timeout=600)[0]
        if process.returncode != 0:
            raise AssertionError(f"exit code {process.returncode} after {self.hits}:\n{said}")
        self.seconds = {stage: float(seconds) for stage, seconds in DONE.findall(said)}
        return said

    def hit(self, number: int, place: str, after: float) -> bool:
        """Start, and send `number` when stage `place` has run for `after` seconds. Returns whether the run ended first.

        A place that is behind the run already, or that it does not reach, is hit wherever the run is instead.
        """
        process = self.start()
        assert process.stdout is not None
        said: list[str] = []
        if place != "start":
            for line in process.stdout:
                said.append(line)
                found = STARTED.match(line)
                if found and PLACES.index(found[1]) >= PLACES.index(place):
                    break
        time.sleep(after)
        over = process.poll() is not None
        asked = time.monotonic()
        if not over:
            os.killpg(process.pid, number)
        said.append(process.communicate(timeout=120)[0])
        took = time.monotonic() - asked
        self.hits.append(f"{signal.Signals(number).name} {after:.2f} s into {place}")
        allowed = (0, 143, -signal.SIGTERM) if number == signal.SIGTERM else (0, -number)
        if process.returncode not in allowed:
            raise AssertionError(f"exit code {process.returncode} after {self.hits}:\n{''.join(said)}")
        if number == signal.SIGTERM and not over:
            self.slowest_stop = max(self.slowest_stop, took)
        return process.returncode == 0

    def outcome(self) -> dict[str, object]:
        """All files by name: contents, and of logs the lines without times. What must not depend on being disturbed."""
        found: dict[str, object] = {}
        for path in sorted(p for p in self.work.rglob("*") if p.is_file()):
            name = str(path.relative_to(self.work))
            if CHECKPOINT.fullmatch(name):
                continue  # a run that is stopped writes one more, and an older one is deleted for it
            if name.endswith("_log.jsonl"):
                lines = [json.loads(line) for line in path.read_text().splitlines()]
                timeless = [{k: v for k, v in line.items() if k not in UNSTABLE} for line in lines]
                found[name] = timeless
            elif name.endswith((".parquet", ".safetensors", ".wav")) or "/prepared/" in name:
                found[name] = path.read_bytes()
            else:
                found[name] = ""  # times of day, speeds: only that it is there
        return found


#: Figures of a log line that say how fast it went.
UNSTABLE = ("timestamp", "frames_per_second")


def compare(disturbed: Run, undisturbed: Run) -> None:
    """Raise AssertionError unless both have the same files with the same contents."""
    ours, theirs = disturbed.outcome(), undisturbed.outcome()
    if ours.keys() != theirs.keys():
        raise AssertionError(f"other files after {disturbed.hits}: {sorted(ours.keys() ^ theirs.keys())}")
    differing = [name for name in ours if ours[name] != theirs[name]]
    if differing:
        raise AssertionError(f"other contents after {disturbed.hits}: {differing}")
    for name in ("output/training_log.jsonl", "output/validation_log.jsonl"):
        steps = [line["step"] for line in ours[name]]  # type: ignore[attr-defined]
        if steps != sorted(set(steps)):
            raise AssertionError(f"{name}: a step is logged twice after {disturbed.hits}: {steps}")


def disturb(run: Run, undisturbed: Run, dice: random.Random, number: int, most: int) -> int:
    """Hit a run at random instants, up to `most` times, and let it end. Returns how often it was hit.

    The places come in the order of the stages, so that a run is hit in all of them before it is over.
    """
    reached = PLACES.index(run.until) + 1
    places = sorted(dice.choices(PLACES[:reached], WEIGHTS[:reached], k=most), key=PLACES.index)
    for count, place in enumerate(places, start=1):
        longest = 3.0 if place == "start" else 1.1 * undisturbed.seconds.get(place, 0.0)
        if run.hit(number, place, dice.uniform(0.0, longest)):
            return count
    run.finish()
    return len(places)
