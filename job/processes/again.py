"""Whether the processes of all nodes are started again where they are, after one of them was killed.

The launchers ask one another through node 0's store, whose keys are, for the first restart, the second and so on:

    again K N      node N: its processes have ended; `killed` if one of them was killed, else `lost`
    left N         node N: it ends
    attempt K      node 0: `go`, or `no` if not all nodes are still there, or no process was killed
"""

from __future__ import annotations

import time
from typing import Any

from job.config.settings import Settings
from job.core.console import say

#: Seconds for which node 0 waits for the others' word; their processes notice within seconds that one is lost.
ANSWER_SECONDS = 30.0
#: Seconds for which the others wait for node 0, whose first process may be copying to MIRROR_CHECKPOINTS.
DECISION_SECONDS = 2400.0
POLL, LINE = 0.2, 60.0


def agreed(settings: Settings, store: Any, attempt: int, *, killed: bool) -> bool:
    """Ask all nodes whether to start the processes again; the same answer on all.

    Args:
        store: node 0's; None for a run on one node.
        attempt: which restart it would be, from 1.
        killed: whether one of this node's processes was killed.
    """
    if store is None:
        return killed
    try:
        store.set(f"again {attempt} {settings.node_rank}", "killed" if killed else "lost")
        if settings.node_rank:
            return _told(store, attempt)
        go = _wanted(settings, store, attempt)
        store.set(f"attempt {attempt}", "go" if go else "no")
        return go
    except RuntimeError:  # torch's error for a store that is gone, with node 0
        return False


def leave(settings: Settings, store: Any) -> None:
    """Say on a node other than the first that it ends, so that nobody waits for its word."""
    store.set(f"left {settings.node_rank}", "")


def _wanted(settings: Settings, store: Any, attempt: int) -> bool:
    nodes, end = range(settings.num_nodes), time.monotonic() + ANSWER_SECONDS
    words = [f"again {attempt} {node}" for node in nodes]
    while time.monotonic() < end and not any(store.check([f"left {node}"]) for node in nodes):
        if store.check(words):
            return any(store.get(word) == b"killed" for word in words)
        time.sleep(POLL)
    return False


def _told(store: Any, attempt: int) -> bool:
    begun = said = time.monotonic()
    while (now := time.monotonic()) < begun + DECISION_SECONDS:
        if store.check([f"attempt {attempt}"]):
            return bool(store.get(f"attempt {attempt}") == b"go")
        if now - said > LINE:
            said = now
            say("run", f"waiting for node 0 to end its processes, for {(now - begun) / 60:.0f} min")
        time.sleep(POLL)
    return False
