"""Running commands in an image's root file system as a container runtime with the strictest settings would."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: In namespaces of its own: the root file system read-only, fresh /tmp, /dev and /proc, the volume at /work; then the
#: user without capabilities, of which chroot still needed one. The arguments: root, volume, working directory, uid,
#: number of further mounts, those (source, target), then variables and the command.
ENTER = """
set -eu
root=$1 volume=$2 directory=$3 uid=$4 mounts=$5
shift 5
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
mount --bind "$volume" "$root/work"
for _ in $(seq "$mounts"); do
  mount --bind "$1" "$root$2"
  mount -o remount,bind,ro "$root$2"
  shift 2
done
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
for device in null zero full random urandom; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
mount -o remount,bind,ro "$root"
set -- env -i -C "$directory" "$@"
if [ "$uid" = 0 ]; then
  exec chroot "$root" "$@"
fi
exec chroot "$root" setpriv --reuid "$uid" --regid "$uid" --clear-groups --bounding-set=-all --inh-caps=-all \\
  --no-new-privs -- "$@"
"""


@dataclass
class Result:
    """How a command ended. With `show`, `err` is empty and `out` holds both streams."""

    code: int
    out: str
    err: str


@dataclass
class Container:
    """An image's root file system, its configuration (as Docker writes it), and the directory for its work volume."""

    root: Path
    config: dict[str, Any]
    volume: Path

    def run(
        self,
        command: list[str],
        variables: dict[str, str] | None = None,
        mounts: dict[Path, str] | None = None,
        *,
        uid: int = 10001,
        show: bool = False,
        minutes: float = 2,
    ) -> Result:
        """Run a command with the image's environment and `variables`, without a network.

        `mounts` are read-only. A `uid` of 0 keeps all capabilities, any other has none; `show` prints what the command
        says while it runs.
        """
        environment = dict(pair.split("=", 1) for pair in self.config["Env"])
        environment.update(variables or {})
        further = [str(word) for pair in (mounts or {}).items() for word in pair]
        enter = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--net",
            "--ipc",
            "--uts",
            "--kill-child",
            "sh",
            "-c",
            ENTER,
            "sh",
        ]
        place = [str(self.root), str(self.volume), self.config["WorkingDir"], str(uid)]
        pairs = [f"{name}={value}" for name, value in environment.items()]
        process = subprocess.Popen(
            [*enter, *place, str(len(further) // 2), *further, *pairs, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if show else subprocess.PIPE,
            text=True,
        )
        if not show:
            out, err = process.communicate(timeout=60 * minutes)
            return Result(process.returncode, out, err)
        lines = []
        assert process.stdout
        for line in process.stdout:  # the check as a whole has a time limit
            sys.stdout.write(f"  {line}")
            sys.stdout.flush()
            lines.append(line)
        return Result(process.wait(), "".join(lines), "")
