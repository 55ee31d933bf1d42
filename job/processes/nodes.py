"""The rendezvous of a run's nodes: wait for late nodes, notice lost ones, and report a failure to all.

Node 0 opens a torch store at MASTER_ADDR:MASTER_PORT as soon as it starts; the others retry until they can connect.
"""

from __future__ import annotations

import contextlib
import socket
import time
from datetime import timedelta
from types import TracebackType
from typing import Any

from job.config.settings import Settings
from job.core.console import say
from job.core.errors import BadInput, FollowedRank, NodesMissing, PeerLost
from job.processes.ranks import exit_code

#: Polling interval in seconds.
POLL = 0.5
#: Seconds that a shared volume may take to show a file written by another node.
VOLUME_SECONDS = 60.0
#: Seconds for which node 0 keeps its store open, so that the others can read its exit code.
LAST_WORD_SECONDS = 2.0


class Gathering:
    """Context manager that connects the nodes of a run; does nothing when there is only one node."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: Any = None
        self._decided = False

    def __enter__(self) -> Gathering:
        """Open the store (node 0) or connect to it.

        Raises:
            NodesMissing: node 0 does not answer within RENDEZVOUS_TIMEOUT.
        """
        if self._settings.num_nodes > 1:
            self._store = self._open() if self._settings.node_rank == 0 else self._knock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store; node 0 first reports a failure to the other nodes."""
        if self._store is not None and self._settings.node_rank == 0 and error is not None and not self._decided:
            with contextlib.suppress(Exception):
                self._store.set("decision", f"end {exit_code(error)}")
                time.sleep(LAST_WORD_SECONDS)

    def gather(self, mark: str) -> None:
        """On node 0: wait for all nodes, then let them start.

        Args:
            mark: the contents of `state/nodes.mark` in the shared WORK_DIR.

        Raises:
            NodesMissing: some nodes did not connect within RENDEZVOUS_TIMEOUT.
            BadInput: the WORK_DIR of some nodes is on another volume.
        """
        if self._store is None:
            return
        count, waited = self._settings.num_nodes, self._settings.rendezvous_timeout
        names = [f"node {number}" for number in range(1, count)]
        missing = [name for name in names if not self._store.check([name])]
        if missing:
            say("run", f"waiting for {', '.join(missing)}, up to {waited} s (RENDEZVOUS_TIMEOUT)")
        end = time.monotonic() + waited
        while missing:
            if time.monotonic() > end:
                raise NodesMissing(
                    f"{count - len(missing)} of NUM_NODES={count} nodes connected within {waited} s; missing: "
                    f"{', '.join(missing)}: check NODE_RANK there and that {self._address} can be reached from there "
                    "(a larger RENDEZVOUS_TIMEOUT waits longer)"
                )
            time.sleep(POLL)
            missing = [name for name in missing if not self._store.check([name])]
        self._store.set("mark", mark)
        while not all(self._store.check([f"{name} sees"]) for name in names):
            time.sleep(POLL)
        blind = [name for name in names if self._store.get(f"{name} sees") != b"yes"]
        if blind:
            raise BadInput(
                f"WORK_DIR={self._settings.paths.work} on {', '.join(blind)} is not the volume that node 0 writes to; "
                "mount the same one on all nodes (NFS, EFS, a ReadWriteMany claim)"
            )
        self._store.set("decision", "go")
        self._decided = True

    def follow(self) -> None:
        """On another node: register with node 0 and wait until it starts.

        Raises:
            FollowedRank: node 0 has failed, or has refused to start.
            PeerLost: the connection to node 0 was lost.
        """
        name = f"node {self._settings.node_rank}"
        self._store.set(name, "here")
        say("run", f"{name} of {self._settings.num_nodes}: waiting for node 0 to start")
        if self._first_of("mark", "decision") == "mark":
            self._store.set(f"{name} sees", "yes" if self._sees(self._word("mark")) else "no")
            self._first_of("decision")
        word, _, code = self._word("decision").partition(" ")
        if word == "end":
            say("run", f"node 0 exited with code {code}; see its log")
            raise FollowedRank(int(code))

    @property
    def _address(self) -> str:
        return f"MASTER_ADDR={self._settings.master_addr}:{self._settings.master_port}"

    def _open(self) -> Any:
        from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

        try:
            # `multi_tenant`: torchrun uses the same store in this process.
            return TCPStore(
                self._settings.master_addr,
                self._settings.master_port,
                is_master=True,
                wait_for_workers=False,
                multi_tenant=True,
                timeout=timedelta(seconds=60),
            )
        except (DistError, RuntimeError) as error:
            raise BadInput(
                f"{self._address}: node 0 cannot listen there; use this node's address and a free MASTER_PORT"
            ) from error

    def _knock(self) -> Any:
        from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

        settings = self._settings
        say("run", f"node {settings.node_rank} of {settings.num_nodes}: connecting to node 0 at {self._address}")
        end = time.monotonic() + settings.rendezvous_timeout
        problem: object = "no answer"
        while time.monotonic() < end:
            try:
                # Plain sockets first: they can be retried until the DNS knows the name, and do not block signals.
                socket.create_connection((settings.master_addr, settings.master_port), timeout=5).close()
                return TCPStore(
                    settings.master_addr, settings.master_port, is_master=False, timeout=timedelta(seconds=60)
                )
            except (OSError, DistError, RuntimeError) as error:
                problem = error
                time.sleep(POLL)
        reason = str(problem).strip().splitlines()[0]
        raise NodesMissing(
            f"{self._address} did not answer within {settings.rendezvous_timeout} s ({reason}): check that node 0 runs "
            "and can be reached from here (a larger RENDEZVOUS_TIMEOUT waits longer)"
        )

    def _first_of(self, *keys: str) -> str:
        """Wait until node 0 has set one of the keys; returns the first one that is set."""
        from torch.distributed import DistError

        try:
            while True:
                for key in keys:
                    if self._store.check([key]):
                        return key
                time.sleep(POLL)
        except (DistError, RuntimeError) as error:
            raise PeerLost("node 0 was lost; run the same command on all nodes again to continue") from error

    def _word(self, key: str) -> str:
        return str(self._store.get(key).decode())

    def _sees(self, mark: str) -> bool:
        """Whether this node's WORK_DIR contains the file that node 0 has written into its own."""
        path = self._settings.paths.state / "nodes.mark"
        end = time.monotonic() + VOLUME_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if path.read_text(encoding="utf-8") == mark:
                    return True
            time.sleep(POLL)
        return False
