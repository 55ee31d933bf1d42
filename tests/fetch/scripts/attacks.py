"""Tries what a loading script must not be able to do, and prints the names of what worked as a JSON list.

    attacks.py SPEC

SPEC is a JSON object: `outside`, a folder with files to read and change; `readable`, a file that may be read only;
`socket`, where somebody listens.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECRET = "hf_" + "S" * 34
LIBC = ctypes.CDLL(None, use_errno=True)


def sent(address: Any) -> bool:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.connect(address)
    return True


def reads_memory(parent: int) -> bool:
    """Whether process_vm_readv gets at the parent's memory, wherever in it."""
    buffer = ctypes.create_string_buffer(8)
    here, there = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8), (ctypes.c_size_t * 2)(1 << 16, 8)
    LIBC.process_vm_readv(parent, here, 1, there, 1, 0)
    return ctypes.get_errno() != 1  # anything but "not permitted": the address alone was wrong


def truncates(path: Path, flags: int) -> bool:
    os.close(os.open(path, flags))
    return path.stat().st_size == 0


def attacks(outside: Path, readable: Path, listening: str) -> dict[str, Callable[[], Any]]:
    parent, own = os.getppid(), Path(os.environ["HOME"])
    token = outside / "token"

    def through_a_link() -> bool:
        (own / "link").symlink_to(outside / "victim")
        return bool((own / "link").write_text("changed"))

    def into_own(how: Callable[[Path, Path], Any]) -> bool:
        how(outside / "victim", own / f"by {how.__name__}")
        return True

    def changed_mode() -> bool:
        (outside / "victim").chmod(0o777)
        return (outside / "victim").stat().st_mode & 0o777 == 0o777

    def changed_time() -> bool:
        os.utime(outside / "victim", (1, 1))
        return (outside / "victim").stat().st_mtime == 1

    def changed_attribute() -> bool:
        os.setxattr(outside / "victim", "user.x", b"x")
        return os.getxattr(outside / "victim", "user.x") == b"x"

    return {
        "token in the environment": lambda: SECRET in str(dict(os.environ)),
        "token in the parent's environment": lambda: SECRET in Path(f"/proc/{parent}/environ").read_text(),
        "token file": lambda: SECRET in token.read_text(),
        "token file by the parent's root": lambda: SECRET in Path(f"/proc/{parent}/root{token}").read_text(),
        "token file by the shell": lambda: (
            SECRET.encode() in subprocess.run(["cat", token], capture_output=True).stdout
        ),
        "token in an inherited file": lambda: any(SECRET.encode() in content for content in inherited()),
        "parent's memory as a file": lambda: bool(Path(f"/proc/{parent}/mem").open("rb")),
        "parent's memory": lambda: reads_memory(parent),
        "list": lambda: bool(list(outside.iterdir())),
        "new file": lambda: bool((outside / "new").write_text("x")),
        "new folder": lambda: (outside / "folder").mkdir(),
        "new pipe": lambda: os.mkfifo(outside / "pipe"),
        "overwrite": lambda: bool((outside / "victim").write_text("changed")),
        "append by the shell": lambda: not subprocess.run(["sh", "-c", f"echo x >>'{outside}/victim'"]).returncode,
        "elsewhere": lambda: bool((outside.parent / "new").write_text("x")),
        "through a link": through_a_link,
        "hard link": lambda: into_own(os.link),
        "write only what may be read": lambda: readable.open("a"),
        "truncate": lambda: os.truncate(outside / "victim", 0),
        "truncate by opening to read": lambda: truncates(readable, os.O_RDONLY | os.O_TRUNC),
        "truncate by opening for nothing": lambda: truncates(readable, os.O_ACCMODE | os.O_TRUNC),
        "mode": changed_mode,
        "time": changed_time,
        "attribute": changed_attribute,
        "signal": lambda: os.kill(parent, signal.SIGCONT),
        "signal to a thread": lambda: LIBC.syscall(tgkill(), parent, parent, signal.SIGCONT) == 0,
        "signal by a handle": lambda: signal.pidfd_send_signal(os.pidfd_open(parent), signal.SIGCONT),
        "signal by a socket": lambda: owned(parent),
        "limits": lambda: resource.prlimit(parent, resource.RLIMIT_CORE, (0, 0)),
        "priority": lambda: os.setpriority(os.PRIO_PROCESS, parent, 1),
        "processors": lambda: os.sched_setaffinity(parent, os.sched_getaffinity(parent)),
        "tracing": lambda: LIBC.ptrace(0x4206, parent, 0, 0) == 0,
        "Unix socket": lambda: sent(listening),
        "abstract socket": lambda: sent("\0" + listening),
        "leave its session": lambda: os.setsid(),
        "new namespaces": lambda: LIBC.unshare(0x10000000) == 0,
        "rename": lambda: into_own(os.rename),
        "remove": lambda: token.unlink(),
    }


def inherited() -> list[bytes]:
    found = []
    for descriptor in range(3, 64):
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                found.append(os.pread(descriptor, 1000, 0))
        except OSError:
            continue
    return found


def owned(parent: int) -> bool:
    with socket.socket() as opened:
        fcntl.fcntl(opened, fcntl.F_SETOWN, parent)
        return fcntl.fcntl(opened, fcntl.F_GETOWN) == parent


def tgkill() -> int:
    return 234 if os.uname().machine == "x86_64" else 131


def worked(outside: Path, readable: Path, listening: str) -> list[str]:
    found = []
    for name, attack in attacks(outside, readable, listening).items():
        try:
            if attack() is not False:
                found.append(name)
        except OSError:
            continue
    return found


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    print(json.dumps(worked(Path(spec["outside"]), Path(spec["readable"]), spec["socket"])))
