"""The number of CPUs that a process may use, from its affinity and from a container's or Pod's CPU limit.

torch ignores such limits: limited to two CPUs on a machine with 64, it would start 64 threads, which spin while waiting
for each other and so use up the two CPUs. (joblib reads limits too, but takes longer to import than a short command.)
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
    """The CPU limit in whole CPUs, rounded up; None when no limit is below the number of available CPUs.

    Reads both versions of Linux's control groups (kernel documentation, "cgroup-v2", `cpu.max`, and "sched-bwc",
    `cpu.cfs_quota_us`): the limits of the process's group and of all its parents. Always None on other systems.
    """
    granted = math.ceil(min(_quotas(mount, own), default=0))
    return granted if 0 < granted < available() else None


def available() -> int:
    """The number of CPUs that this process may run on, ignoring limits."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _quotas(mount: Path, own: Path) -> Iterator[float]:
    """All limits that apply to this process, in CPUs."""
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
    """The directories of a group and its parents; in a container only the outermost one is mounted."""
    relative = PurePosixPath(path.lstrip("/"))
    if ".." in relative.parts:
        return [mount]
    return [mount / part for part in (relative, *relative.parents)]


def _quota(quota: str, period: str) -> Iterator[float]:
    """Yield a quota (microseconds of CPU time per period) in CPUs; nothing for `max` and -1, which mean no limit."""
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
