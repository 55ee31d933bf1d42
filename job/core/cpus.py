"""The CPUs that a process may use: torch knows of those it is bound to, and not of a container's or a Pod's CPU limit.

With a limit of two CPUs on a machine of 64, torch would start 64 threads that wait for each other by spinning, and so
use up what the two CPUs grant. (joblib knows of limits as well, but importing it takes longer than a short command.)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

#: Where control groups are mounted, and where a process finds its own.
MOUNT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def limit(mount: Path = MOUNT, own: Path = OWN) -> int | None:
    """Whole CPUs that the CPU limit grants, rounded up; None where no limit is less than the CPUs this may run on.

    Both versions of Linux's control groups are read (kernel documentation, "cgroup-v2", `cpu.max`, and "sched-bwc",
    `cpu.cfs_quota_us`): a group's limit, and those of the groups that it is in. Elsewhere there is none.
    """
    granted = math.ceil(min(_quotas(mount, own), default=0))
    return granted if 0 < granted < available() else None


def available() -> int:
    """CPUs that this process may run on, whatever share of them it is granted."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _quotas(mount: Path, own: Path) -> Iterator[float]:
    """The limits that apply, in CPUs."""
    for line in _text(own).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            for group in _groups(mount, path):
                quota, _, period = _text(group / "cpu.max").partition(" ")
                yield from _quota(quota, period)
        elif "cpu" in controllers.split(","):
            for name in dict.fromkeys((controllers, "cpu", "cpu,cpuacct")):
                for group in _groups(mount / name, path):
                    yield from _quota(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))


def _groups(mount: Path, path: str) -> list[Path]:
    """A group's directory and those of the groups it is in; in a container the outermost one is all that is mounted."""
    relative = PurePosixPath(path.lstrip("/"))
    if ".." in relative.parts:
        return [mount]
    return [mount / part for part in (relative, *relative.parents)]


def _quota(quota: str, period: str) -> Iterator[float]:
    """Microseconds of computing in a period of microseconds, as CPUs; `max` and -1 are no limit."""
    try:
        if int(quota) > 0 and int(period) > 0:
            yield int(quota) / int(period)
    except ValueError:
        return


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
