"""The rendezvous of a run's nodes: wait for late nodes, notice lost ones, and report a failure to all.

Node 0 opens a torch store at MASTER_ADDR:MASTER_PORT as soon as it starts; the others retry until they can connect. Its
keys:

    mark           node 0: what it has written to `state/nodes.mark`; empty if no other node need look for it
    node N         node N: it is here
    node N sees    node N: whether it has found the mark in its WORK_DIR, and its own MIRROR_CHECKPOINTS
    decision       node 0: `go`, `own disks`, or `end` with an exit code
    start          node 0, after `own disks`: `go` once the data are prepared, or `end` with an exit code
    node N knows   node N: it has read `start`
"""

from __future__ import annotations

import contextlib
import json
import time
from datetime import timedelta
from types import TracebackType
from typing import Any

from job.config.settings import Settings
from job.core.console import say
from job.core.errors import BadInput, FollowedRank, NodesMissing, PeerLost
from job.processes import again
from job.processes.joining import CONTROL_PATIENCE
from job.processes.pulse import connected
from job.processes.ranks import exit_code

#: Polling interval in seconds.
POLL = 0.5
#: Seconds that a shared volume may take to show a file written by another node.
VOLUME_SECONDS = 60.0
#: Seconds for which node 0 keeps its store open, so that the others can read its exit code.
LAST_WORD_SECONDS = 2.0
#: Seconds that an answer of nodes that are there may take before it is said who is waited for.
QUIET_SECONDS = 5.0
#: Seconds between two lines of a node that waits for others.
WAITING_LINE = 60.0
_LONGER = "(a larger RENDEZVOUS_TIMEOUT waits longer)"
#: What all nodes need that share nothing else.
_WAYS_OUT = (
    "mount the same one on all nodes (NFS, EFS, a ReadWriteMany claim), or set MIRROR_CHECKPOINTS to a bucket or a Hub "
    "repo that all nodes reach (docs/nodes.md)"
)


def check(settings: Settings) -> None:
    """Check what can be known before the nodes have met.

    Raises:
        BadInput: nothing brings one node's data and checkpoints to the others.
    """
    if settings.num_nodes > 1 and settings.shared_work_dir == "false" and not settings.mirror_checkpoints:
        raise BadInput(f"SHARED_WORK_DIR=false: NUM_NODES={settings.num_nodes} nodes need a WORK_DIR; {_WAYS_OUT}")


class Gathering:
    """Context manager that connects the nodes of a run; does nothing when there is only one node."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: Any = None
        self._open_question = "decision"  # what the other nodes wait for; empty once they have all been told

    def __enter__(self) -> Gathering:
        """Open the store (node 0) or connect to it.

        Raises:
            NodesMissing: node 0 does not answer within RENDEZVOUS_TIMEOUT.
            BadInput: see `check`.
        """
        if self._settings.num_nodes > 1:
            check(self._settings)
            self._store = self._open() if self._settings.node_rank == 0 else self._knock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store; node 0 first reports a failure to the other nodes."""
        if self._store is not None and self._settings.node_rank == 0 and error is not None and self._open_question:
            with contextlib.suppress(Exception):
                self._store.set(self._open_question, f"end {exit_code(error)}")
                time.sleep(LAST_WORD_SECONDS)
        elif self._store is not None and error is not None:
            with contextlib.suppress(RuntimeError):  # node 0 may be gone
                again.leave(self._settings, self._store)

    def again(self, attempt: int, *, killed: bool) -> bool:
        """Whether all nodes start their processes once more: `again.agreed`."""
        return again.agreed(self._settings, self._store, attempt, killed=killed)

    # ---- on node 0 ---------------------------------------------------------------------------------------------------

    def show(self, mark: str) -> None:
        """Let the others look for `mark`, the contents of `state/nodes.mark` in this node's WORK_DIR."""
        if self._store is not None:
            self._store.set("mark", "" if self._settings.shared_work_dir == "false" else mark)

    def look(self) -> None:
        """Refuse to go on as soon as a node has connected that this run cannot use.

        Raises:
            BadInput: nodes have other volumes, and nothing else in common; or other mirrors.
        """
        if self._store is not None:
            self._own_disks([name for name in self._others if self._store.check([f"{name} sees"])])

    def gather(self) -> bool:
        """Wait for all nodes, then let them start, or wait for `start`; whether each has a WORK_DIR of its own.

        Raises:
            NodesMissing: some nodes did not connect within RENDEZVOUS_TIMEOUT.
            BadInput: as `look`.
        """
        if self._store is None:
            return False
        self._wait_for("", "connected", self._settings.rendezvous_timeout)
        self._wait_for(" sees", "answered", max(2 * VOLUME_SECONDS, self._settings.rendezvous_timeout))
        own_disks = self._own_disks(self._others)
        self._store.set("decision", "own disks" if own_disks else "go")
        self._open_question = "start" if own_disks else ""
        if own_disks:
            say("run", f"each node has a WORK_DIR of its own; they share {self._settings.mirror_checkpoints}")
        return own_disks

    def start(self) -> None:
        """Let the nodes start that have a WORK_DIR of their own: the data are prepared.

        Returns when they all know it, since node 0 may have nothing more to do (PREPARE_ONLY) and close the store. One
        that was lost meanwhile may have been started again.

        Raises:
            NodesMissing: some nodes are not there any more.
        """
        self._store.set("start", "go")
        self._wait_for(" knows", "are still there", self._settings.rendezvous_timeout)
        self._open_question = ""

    def dismiss(self) -> None:
        """Let others end at once that are started again: nothing is left for them to do."""
        self._store.set("decision", "end 0")
        self._open_question = ""

    def _wait_for(self, key: str, did: str, seconds: float) -> None:
        """Wait until all other nodes have set their key; `did` is what they then have done."""
        count, begun = self._settings.num_nodes, time.monotonic()
        say_after = QUIET_SECONDS if key else 0.0
        while missing := [name for name in self._others if not self._store.check([f"{name}{key}"])]:
            waited = time.monotonic() - begun
            if waited >= say_after:
                say_after = waited + WAITING_LINE
                say("run", f"waiting for {', '.join(missing)}, up to {seconds:g} s (RENDEZVOUS_TIMEOUT)")
            if waited > seconds:
                raise NodesMissing(
                    f"{count - len(missing)} of NUM_NODES={count} nodes {did} within {seconds:g} s; missing: "
                    f"{', '.join(missing)}: check NODE_RANK there and that {self._address} can be reached from there "
                    f"{_LONGER}"
                )
            time.sleep(POLL)

    @property
    def _others(self) -> list[str]:
        return [f"node {number}" for number in range(1, self._settings.num_nodes)]

    def _own_disks(self, names: list[str]) -> bool:
        """Whether these nodes have, or are to have, a WORK_DIR of their own; refuses what cannot be."""
        said = {name: json.loads(self._word(f"{name} sees")) for name in names}
        blind = [name for name, one in said.items() if not one["sees"]]
        if not blind:
            return False
        ours = self._settings.mirror_checkpoints
        if not ours or self._settings.shared_work_dir == "true":
            ways = _WAYS_OUT if not ours else "mount the same one on all nodes, or set SHARED_WORK_DIR=auto"
            where = f"WORK_DIR={self._settings.paths.work} on {', '.join(blind)}"
            raise BadInput(f"{where} is not the volume that node 0 writes to; {ways}")
        for name, one in said.items():
            if one["mirror"] != ours:
                theirs = f"is {one['mirror']}" if one["mirror"] else "is not set"
                raise BadInput(f"MIRROR_CHECKPOINTS={ours}: on {name} it {theirs}; set the same on all nodes")
        return True

    # ---- on the other nodes ------------------------------------------------------------------------------------------

    def follow(self) -> bool:
        """Register with node 0 and wait until it starts; whether each node has a WORK_DIR of its own.

        Raises:
            FollowedRank: node 0 has failed, or has refused to start.
            PeerLost: the connection to node 0 was lost.
        """
        name = f"node {self._settings.node_rank}"
        self._store.set(name, "here")
        say("run", f"{name} of {self._settings.num_nodes}: waiting for node 0 to start")
        if self._first_of("mark", "decision") == "mark":
            mirror = self._settings.mirror_checkpoints
            self._store.set(f"{name} sees", json.dumps({"sees": self._sees(self._word("mark")), "mirror": mirror}))
        if self._answer("decision") != "own disks":
            return False
        say("run", f"{name} has a WORK_DIR of its own; waiting for node 0 to prepare the data")
        self._answer("start")
        self._store.set(f"{name} knows", "yes")
        return True

    def _answer(self, question: str) -> str:
        """Wait for node 0's answer.

        Raises:
            FollowedRank: it ends.
        """
        self._first_of(question)
        answer = self._word(question)
        word, _, code = answer.partition(" ")
        if word == "end":
            say("run", f"node 0 exited with code {code}; see its log" if int(code) else "node 0 does the rest alone")
            raise FollowedRank(int(code))
        return answer

    # ---- on any node -------------------------------------------------------------------------------------------------

    @property
    def _address(self) -> str:
        return f"MASTER_ADDR={self._settings.master_addr}:{self._settings.master_port}"

    def _open(self) -> Any:
        from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

        at, port, patience = self._settings.master_addr, self._settings.master_port, timedelta(seconds=60)
        try:  # `multi_tenant`: torchrun uses the same store in this process
            return TCPStore(at, port, is_master=True, wait_for_workers=False, multi_tenant=True, timeout=patience)
        except (DistError, RuntimeError) as error:
            raise BadInput(
                f"{self._address}: node 0 cannot listen there; use this node's address and a free MASTER_PORT"
            ) from error

    def _knock(self) -> Any:
        from torch.distributed import DistError

        settings = self._settings
        say("run", f"node {settings.node_rank} of {settings.num_nodes}: connecting to node 0 at {self._address}")
        said = begun = time.monotonic()
        problem: object = "no answer"
        while (now := time.monotonic()) < begun + settings.rendezvous_timeout:
            if now - said > WAITING_LINE:
                said = now
                say("run", f"{self._address} does not answer yet, after {(now - begun) / 60:.0f} min")
            try:
                return connected(settings, 60)
            except (OSError, DistError, RuntimeError) as error:
                problem = error
                time.sleep(POLL)
        reason = str(problem).strip().splitlines()[0]
        within = f"within {settings.rendezvous_timeout} s ({reason})"
        raise NodesMissing(
            f"{self._address} did not answer {within}: check that node 0 runs and can be reached from here {_LONGER}"
        )

    def _first_of(self, *keys: str) -> str:
        """Wait until node 0 has set one of the keys; returns the first one that is set."""
        from torch.distributed import DistError

        begun = said = time.monotonic()
        try:
            while (now := time.monotonic()) < begun + CONTROL_PATIENCE.total_seconds():
                for key in keys:
                    if self._store.check([key]):
                        return key
                if now - said > WAITING_LINE:
                    said = now
                    say("run", f"node {self._settings.node_rank}: waiting for node 0 for {(now - begun) / 60:.0f} min")
                time.sleep(POLL)
            raise NodesMissing(f"node 0 has not been ready within {CONTROL_PATIENCE.days} days; see its log")
        except (DistError, RuntimeError) as error:
            raise PeerLost("node 0 was lost; run the same command on all nodes again to continue") from error

    def _word(self, key: str) -> str:
        return str(self._store.get(key).decode())

    def _sees(self, mark: str) -> bool:
        """Whether this node's WORK_DIR contains the file that node 0 has written into its own."""
        if not mark or self._settings.shared_work_dir == "false":
            return False
        path = self._settings.paths.state / "nodes.mark"
        end = time.monotonic() + VOLUME_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if path.read_text(encoding="utf-8") == mark:
                    return True
            time.sleep(POLL)
        return False
