"""Signs of life between the nodes of a run: a node that is silent for two minutes is lost, and the others end.

Sockets tell of a process that has ended, and only whoever is connected to it: not of a machine that has lost its power
or its network, and not of one that is lost before the processes of all nodes have met. Without this, the other nodes
would wait for half an hour, or for days. So the launcher of each node counts up a key in node 0's store (see `nodes`);
node 0 looks at those of all, and the others at node 0's:

    beat N     node N: counted up every BEAT seconds
    ended N    node N: its processes have ended, with this exit code
    met        the first process: all processes have met
    lost       node 0: why the run cannot go on
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from datetime import timedelta
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

from job.config.settings import Settings
from job.core.console import line, say
from job.core.errors import PeerLost
from job.processes.joining import AGAIN, MET, of_attempt
from job.processes.ranks import exit_code

#: Seconds between two signs of life.
BEAT = 5.0
#: Seconds in which node 0's store answers whoever connects.
GREETING = 15.0
#: Seconds without one after which a node is lost; a short outage of the network is none.
SILENT = 120.0
#: Seconds between two lines of a node other than the first, whose processes say nothing.
LINE = 600.0


class Pulse:
    """Context manager around the work of this node's processes; does nothing when there is only one node."""

    def __init__(self, settings: Settings, attempt: int) -> None:
        """`attempt`: how often the processes have been started before; each time has its own keys."""
        self._settings, self._attempt = settings, attempt
        self._node = settings.node_rank
        self._others = range(1, settings.num_nodes) if self._node == 0 else range(1)
        self._counts: dict[int, int] = {}
        self._heard: dict[int, float] = {}  # when another node last gave a sign of life
        self._code: int | None = None  # with which this node's processes have ended
        self._ending, self._ended = threading.Event(), threading.Event()
        self._lost = ""
        self._met = False
        self._store: Any = None

    def __enter__(self) -> Pulse:
        """Begin to give signs of life, and to look for those of others.

        Raises:
            PeerLost: node 0 does not answer.
        """
        if self._settings.num_nodes > 1:
            try:
                self._store = self._connected()
            except (OSError, RuntimeError) as error:
                raise PeerLost(f"node 0 was lost{AGAIN}") from error
            self._heard = dict.fromkeys(self._others, time.monotonic())
            # two threads: a store whose machine is gone answers nothing, and a call of it does not return
            for work in (self._beat, self._watch):
                threading.Thread(target=work, name="pulse", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell the others that this node's processes have ended.

        Raises:
            PeerLost: they were ended because another node is lost.
        """
        self._code = 0 if error is None else exit_code(error)
        self._ending.set()
        if self._settings.num_nodes > 1:
            self._ended.wait(BEAT)
        if self._lost and self._code == PeerLost.exit_code:
            raise PeerLost(self._lost) from error

    # ---- the store ---------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        store, ending = self._store, False
        while True:
            try:
                store = store or self._connected()
                store.add(f"beat {self._node}", 1)
                self._listen(store)
                if ending:
                    store.set(f"ended {self._node}", str(self._code))
            except (OSError, RuntimeError):  # torch's errors of the network are of the latter; `_watch` ends what lasts
                store = None
            if ending:
                self._ended.set()
                return
            ending = self._ending.wait(BEAT)

    def _connected(self) -> Any:
        # one of its own: others wait in theirs for answers
        return of_attempt(connected(self._settings, BEAT), self._attempt)

    def _listen(self, store: Any) -> None:
        self._met = self._met or store.check([MET])
        if self._node and store.check(["lost"]):
            self._lose(store.get("lost").decode())
        for other in self._others:
            count = store.add(f"beat {other}", 0)
            if store.check([f"ended {other}"]):
                self._heard[other] = float("inf")  # whoever has met the others' processes has told them by now
                if not self._met:
                    code = store.get(f"ended {other}").decode()
                    self._lose(f"node {other} ended with exit code {code} before the processes had met; see its log")
            elif count != self._counts.get(other):
                self._counts[other], self._heard[other] = count, time.monotonic()
        if self._lost and not self._node:
            store.set("lost", self._lost)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        looked = said = begun = time.monotonic()
        while not self._ending.wait(1):
            now = time.monotonic()
            if now - looked > SILENT / 4:  # this process was paused, and has listened to nobody
                self._heard = {other: max(then, now) for other, then in self._heard.items()}
            looked = now
            silent = [other for other, then in self._heard.items() if now - then > SILENT]
            if silent and not self._lost:
                names = ", ".join(f"node {other}" for other in silent)
                self._lose(f"no sign of life from {names} for {SILENT:g} s: its machine or its network is lost")
            if self._lost:
                self._end()
            if self._node and now - said > LINE:
                said = now
                how = f"{(now - begun) / 60:.0f} min; node 0's log tells how far they are"
                say("run", f"node {self._node} works with the others for {how}")

    def _lose(self, reason: str) -> None:
        self._lost = self._lost or f"{reason.removesuffix(AGAIN)}{AGAIN}"

    def _end(self) -> None:
        """End the processes of this node: those of the first, which may be copying something, by a signal."""
        if self._node == 0 and self._ending.wait(2 * BEAT + 1):  # meanwhile the others read why
            return
        if self._node == 0 and self._met:
            os.kill(os.getpid(), signal.SIGTERM)  # torchrun's launcher passes it on
            if self._ending.wait(self._settings.grace_seconds + 2 * BEAT):
                return
        print(line("error", "run", self._lost, exit_code=PeerLost.exit_code), file=sys.stderr, flush=True)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(PeerLost.exit_code)  # processes end with their launcher (`joining`)


def connected(settings: Settings, seconds: float) -> Any:
    """A connection to node 0's store, whose answers may take so long.

    Raises:
        OSError, RuntimeError: there is none.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    at, port = settings.master_addr, settings.master_port
    # Plain sockets first: they can be retried until the DNS knows the name, and do not block signals.
    socket.create_connection((at, port), timeout=5).close()
    found: SimpleQueue[Any] = SimpleQueue()

    def connect() -> None:
        try:
            found.put(TCPStore(at, port, is_master=False, timeout=timedelta(seconds=seconds)))
        except (OSError, RuntimeError) as error:
            found.put(error)

    threading.Thread(target=connect, daemon=True).start()  # waits for ever if another program listens there
    try:
        store = found.get(timeout=GREETING)
    except Empty:
        raise OSError("what listens there does not answer as node 0 does") from None
    if isinstance(store, Exception):
        raise store
    return store
