"""How the nodes of a run find together: late ones are waited for, lost ones are noticed, and a failure is told to all.

Node 0 keeps a store of torch's at MASTER_ADDR:MASTER_PORT from its first second on; the others knock until it is there.
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

#: Seconds between two looks.
POLL = 0.5
#: Seconds that a shared volume may take to show a file that another node has written.
VOLUME_SECONDS = 60.0
#: Seconds that node 0 lets the others read its last word before its store goes with it.
LAST_WORD_SECONDS = 2.0


class Gathering:
    """The nodes of one run, while entered; nothing at all where there is one node."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: Any = None
        self._decided = False

    def __enter__(self) -> Gathering:
        """Open the store, or find it.

        Raises:
            NodesMissing: node 0 does not answer in RENDEZVOUS_TIMEOUT.
        """
        if self._settings.num_nodes > 1:
            self._store = self._open() if self._settings.node_rank == 0 else self._knock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Node 0 tells the others of a failure before it goes."""
        if self._store is not None and self._settings.node_rank == 0 and error is not None and not self._decided:
            with contextlib.suppress(Exception):
                self._store.set("decision", f"end {exit_code(error)}")
                time.sleep(LAST_WORD_SECONDS)

    def gather(self, mark: str) -> None:
        """Node 0: wait for all, then let them begin.

        Args:
            mark: what stands in `state/nodes.mark` of the shared WORK_DIR.

        Raises:
            NodesMissing: some have not come in RENDEZVOUS_TIMEOUT.
            BadInput: the WORK_DIR of some is another volume.
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
                    f"{count - len(missing)} of NUM_NODES={count} nodes came in {waited} s, without "
                    f"{', '.join(missing)}: check NODE_RANK there, and that {self._address} can be reached from there "
                    "(RENDEZVOUS_TIMEOUT waits longer)"
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
                "give all nodes the same one (NFS, EFS, a ReadWriteMany claim)"
            )
        self._store.set("decision", "go")
        self._decided = True

    def follow(self) -> None:
        """Another node: say that it is here, and wait until node 0 begins.

        Raises:
            FollowedRank: node 0 has failed, or has refused to begin.
            PeerLost: node 0 is gone.
        """
        name = f"node {self._settings.node_rank}"
        self._store.set(name, "here")
        say("run", f"{name} of {self._settings.num_nodes}: waiting for node 0 to begin")
        if self._first_of("mark", "decision") == "mark":
            self._store.set(f"{name} sees", "yes" if self._sees(self._word("mark")) else "no")
            self._first_of("decision")
        word, _, code = self._word("decision").partition(" ")
        if word == "end":
            say("run", f"node 0 has ended with {code}; see its log")
            raise FollowedRank(int(code))

    @property
    def _address(self) -> str:
        return f"MASTER_ADDR={self._settings.master_addr}:{self._settings.master_port}"

    def _open(self) -> Any:
        from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

        try:
            # `multi_tenant`: torchrun, in this process, uses the same one.
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
                f"{self._address}: cannot be opened on node 0; it must be this node's address and a free MASTER_PORT"
            ) from error

    def _knock(self) -> Any:
        from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

        settings = self._settings
        say("run", f"node {settings.node_rank} of {settings.num_nodes}: looking for node 0 at {self._address}")
        end = time.monotonic() + settings.rendezvous_timeout
        problem: object = "no answer"
        while time.monotonic() < end:
            try:
                # Plain sockets first: a name that the DNS does not know yet is no error, and signals are heard.
                socket.create_connection((settings.master_addr, settings.master_port), timeout=5).close()
                return TCPStore(
                    settings.master_addr, settings.master_port, is_master=False, timeout=timedelta(seconds=60)
                )
            except (OSError, DistError, RuntimeError) as error:
                problem = error
                time.sleep(POLL)
        reason = str(problem).strip().splitlines()[0]
        raise NodesMissing(
            f"{self._address} did not answer in {settings.rendezvous_timeout} s ({reason}): check that node 0 runs and "
            "can be reached from here (RENDEZVOUS_TIMEOUT waits longer)"
        )

    def _first_of(self, *keys: str) -> str:
        """Wait until node 0 has set one of the keys; returns the first that is there."""
        from torch.distributed import DistError

        try:
            while True:
                for key in keys:
                    if self._store.check([key]):
                        return key
                time.sleep(POLL)
        except (DistError, RuntimeError) as error:
            raise PeerLost("node 0 is gone; the same command on all nodes goes on from where it was") from error

    def _word(self, key: str) -> str:
        return str(self._store.get(key).decode())

    def _sees(self, mark: str) -> bool:
        """Whether WORK_DIR shows what node 0 has written into its own."""
        path = self._settings.paths.state / "nodes.mark"
        end = time.monotonic() + VOLUME_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if path.read_text(encoding="utf-8") == mark:
                    return True
            time.sleep(POLL)
        return False
