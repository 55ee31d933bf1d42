"""A Ray of the job's own on this machine: `ray start --head`, which ends when the process that started it does.

python -m job.prepare.on_ray.head PARENT OPTION…
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from contextlib import ExitStack
from typing import Any

_PR_SET_PDEATHSIG = 1
_PORTS = (
    "port",
    "ray-client-server-port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)


def main() -> None:
    """Run `ray start` with the options, as a child of process PARENT."""
    parent, *options = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != int(parent):
        return
    from ray.scripts.scripts import main as ray

    ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
    _tell_listen_port(ports["dashboard-agent-listen-port"])
    sys.argv = ["ray", "start", "--head", "--block", *(f"--{name}={port}" for name, port in ports.items()), *options]
    ray()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _tell_listen_port(port: int) -> None:
    """Pass the port that `ray start` does not pass on; a Ray that does not know the option ignores it."""
    from ray._private import services

    start = services.start_ray_process
    more = [f"--dashboard_agent_listen_port={port}", "--undefok=dashboard_agent_listen_port"]

    def started(command: list[str], process_type: str, *args: Any, **options: Any) -> Any:
        return start([*command, *more] if process_type == "raylet" else command, process_type, *args, **options)

    services.start_ray_process = started


if __name__ == "__main__":
    main()
