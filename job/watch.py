"""Show a run in progress: its stage, losses, the time left, and the end of its log. Reads files only."""

from __future__ import annotations

import re
import shutil
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from job.config.settings import Settings
from job.core import files, state, stopping
from job.core.errors import first_line
from job.evaluate.report import is_held_out, read_log
from job.stages import NAMES

#: Seconds between two looks, and for how long a run's lock may be untouched while the run is alive.
INTERVAL, ALIVE = 2.0, 30.0
#: Lines of the log that are shown, and bytes at its end that are read.
LINES, TAIL = 12, 65_536
#: Last lines of the training log by which the time of a step is measured.
RECENT = 20
#: What training says to a log every ten seconds (`job.core.console.progress`).
_PROGRESS = re.compile(r"\[train\] (\d+)/(\d+) steps")
_CLEAR = "\x1b[H\x1b[2J"


@dataclass
class Seen:
    """What is seen of a run at one moment."""

    alive: bool
    done: list[str]
    training: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    verdict: str = ""


def watch(settings: Settings, interval: float = INTERVAL) -> None:
    """Show the run in WORK_DIR until it ends: a view that is drawn anew on a terminal, else one line for each change.

    If no run is in progress, what is there is shown once. Ctrl-C ends only the view.
    """
    total = _Total(settings)
    terminal = sys.stdout.isatty()
    told: set[str] = set()
    with stopping.StopRequest() as asked:
        while True:
            now = look(settings)
            lines = summary(now, total.of(now))
            if not now.alive and not now.done:
                lines[0] = f"no run is in progress in WORK_DIR={settings.paths.work}, and none has been"
            if terminal:
                size = shutil.get_terminal_size()
                shown = [*lines, "", *now.log][: size.lines - 1]
                print(_CLEAR + "\n".join(line[: size.columns] for line in shown), flush=True)
            else:
                for line in lines:
                    if line not in told:
                        print(line, flush=True)
                told.update(lines)
            if not now.alive:
                return
            end = time.monotonic() + interval
            while time.monotonic() < end:
                if asked.name is not None:
                    return
                time.sleep(min(0.1, interval))


def look(settings: Settings) -> Seen:
    """Read what the run has written so far."""
    paths = settings.paths
    lock = paths.state / "run.lock"
    alive = lock.is_file() and time.time() - files.stamp(lock)[2] / 1e9 < ALIVE
    done = [name for name in NAMES if state.read(paths.state, name)]
    try:
        stats = files.read_json(paths.samples / "stats.json")
        verdict = str(stats["summary"].get("verdict") or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        verdict = ""
    training, validation = read_log(paths.training_log), read_log(paths.validation_log)
    return Seen(alive, done, training, validation, tail(settings.console_log) if alive else [], verdict)


def summary(seen: Seen, total: int | None) -> list[str]:
    """Describe it in a few lines."""
    lines = [f"{'running' if seen.alive else 'no run is in progress'}; done: {', '.join(seen.done) or 'nothing yet'}"]
    if seen.training:
        last = seen.training[-1]
        step = int(last["step"])
        parts = [f"step {step}" + (f" of {total}" if total else "")]
        if _number(last.get("loss")):
            parts.append(f"loss {last['loss']:.4g}")
        if _number(last.get("frames_per_second")):
            parts.append(f"{last['frames_per_second']:.0f} frames/s")
        if seen.alive and (left := seconds_left(seen.training, total)) is not None:
            parts.append(f"about {duration(left)} left")
        lines.append(f"training: {', '.join(parts)}")
    losses = [(float(one["loss"]), int(one["step"])) for one in seen.validation if _number(one.get("loss"))]
    if losses:
        best, at = min(losses)
        what = "validation" if is_held_out(seen.validation) else "no validation rows, so of training rows"
        lines.append(f"{what}: loss {losses[-1][0]:.4g} at step {losses[-1][1]}, best {best:.4g} at step {at}")
    if seen.verdict and not seen.alive:
        lines.append(seen.verdict)
    return lines


def seconds_left(training: list[dict[str, Any]], total: int | None) -> float | None:
    """The time of the last steps for those that are left, validations included; None if it cannot be told."""
    recent = training[-RECENT:]
    steps = int(recent[-1]["step"]) - int(recent[0]["step"])
    try:
        first, last = (datetime.fromisoformat(str(one["timestamp"])) for one in (recent[0], recent[-1]))
    except (KeyError, ValueError):
        return None
    if total is None or steps <= 0 or total < int(recent[-1]["step"]):
        return None
    return (last - first).total_seconds() / steps * (total - int(recent[-1]["step"]))


def duration(seconds: float) -> str:
    """Write a duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def tail(path: Path) -> list[str]:
    """The last lines of a log."""
    try:
        text = files.read_end(path, TAIL).decode(errors="replace")
    except OSError:
        return []
    return text.splitlines()[-LINES:]


class _Total:
    """The number of steps of a run: as its log tells it, else as `plan` estimates it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: int | None = settings.max_steps
        self._asked = False

    def of(self, seen: Seen) -> int | None:
        if found := [match for line in seen.log if (match := _PROGRESS.search(line))]:
            self._known = int(found[-1][2])
        elif self._known is None and not self._asked and "prepare" in seen.done:
            self._asked = True
            self._known = self._planned()
        return self._known

    def _planned(self) -> int | None:
        from job.estimate.plan import estimate

        try:
            return estimate(self._settings).steps
        except Exception as error:  # whatever is missing, the rest can be shown
            print(f"the number of steps is not known: {first_line(error)}", file=sys.stderr)
            return None


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
