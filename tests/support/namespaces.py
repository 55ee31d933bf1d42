"""Two network namespaces with a cable between them: as good as two machines, as far as addresses go."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

ADDRESSES = ("10.213.77.1", "10.213.77.2")


class NoNamespaces(Exception):
    """Why there can be none here."""


def ip(*arguments: str) -> None:
    """Run iproute2's `ip`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def two_namespaces() -> Iterator[list[tuple[str, str]]]:
    """Name and interface of each; their addresses are `ADDRESSES`.

    Raises:
        NoNamespaces: they need root and tools that are not here, or are not permitted.
    """
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        raise NoNamespaces("network namespaces need root, ip and unshare")
    names = [f"node{os.getpid()}-{index}" for index in range(2)]
    ends = [f"v{os.getpid()}-{index}" for index in range(2)]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        except subprocess.CalledProcessError as error:
            raise NoNamespaces(f"no network namespaces here: {error.stderr.strip()}") from error
        for name, end, address in zip(names, ends, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield list(zip(names, ends, strict=True))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
