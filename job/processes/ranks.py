"""The processes of one run that is spread over GPUs and nodes: which one this is, and how they agree.

Started by `job.launch` under torchrun, which tells each process who it is. A run of one process is the same code with
`ALONE`. Messages of control go over gloo, whatever the tensors of training go over: its sockets notice at once that the
other end is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from job.core import console
from job.core.errors import FollowedRank, JobError, PeerLost, StoppedBySignal, first_line

if TYPE_CHECKING:
    import torch

    from job.config.settings import Settings

T = TypeVar("T")

#: How long a collective may take in which nothing arrives and no end is gone: a checkpoint on a slow volume, at worst.
PATIENCE = timedelta(minutes=30)
#: The same for messages of control, which wait while the first rank works alone.
CONTROL_PATIENCE = timedelta(days=2)
#: Seconds in which the first process fails as well, if it does.
FAILURE_SECONDS = 2.0
#: Seconds between two looks at whether the launcher still lives.
ORPHAN_SECONDS = 2.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ranks:
    """This process among all.

    Attributes:
        rank: 0 to world - 1.
        world: processes in all.
        local: number on its node; its GPU's.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    _control: Any = None

    @property
    def first(self) -> bool:
        """Whether it is the one that writes what is written once."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """The first rank's `value`, in every rank (picklable)."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def first_does(self, work: Callable[[], T]) -> T:
        """Let the first rank work and all have its result, or its failure.

        Raises:
            FollowedRank: in the others, when the first has failed; it says why.
        """
        if self.world == 1:
            return work()
        if not self.first:
            done, result = self.share((True, cast(Any, None)))
            if not done:
                raise FollowedRank(result)
            return cast(T, result)
        try:
            result = work()
        except BaseException as error:
            self.share((False, exit_code(error)))
            raise
        self.share((True, result))
        return result

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier(group=self._control)

    def any(self, *flags: bool) -> list[bool]:
        """Each flag, whether it is set in any rank."""
        if self.world == 1:
            return list(flags)
        import torch
        import torch.distributed as dist

        votes = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self._control)
        return [vote > 0 for vote in votes.tolist()]

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Elementwise sum over the ranks, in place."""
        if self.world > 1:
            import torch.distributed as dist

            dist.all_reduce(values)
        return values


#: A run of one process.
ALONE = Ranks()


def exit_code(error: BaseException) -> int:
    """What a process that ends with `error` returns."""
    return int(getattr(error, "exit_code", 1))


@contextmanager
def joined(settings: Settings, launcher: int) -> Iterator[Ranks]:
    """Meet the other processes of the launch; leave together.

    Args:
        settings: DEVICE.
        launcher: process id of what has started this one, and ends it with itself.

    Raises:
        PeerLost: another one has gone without a word.
        FollowedRank: this one fails as the first one does, which says why.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    global _abandoned
    _end_with(launcher)
    local = dist.get_node_local_rank()
    cuda = settings.device in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local)
    store, rank, world = next(rendezvous("env://"))
    if rank:
        console.be_quiet()
    try:
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
        ranks = Ranks(rank, world, local, dist.new_group(backend="gloo", timeout=CONTROL_PATIENCE))
        _abandoned = True  # until all are through
        yield ranks
        ranks.wait()
        dist.destroy_process_group()
        _abandoned = False
    except (JobError, StoppedBySignal) as error:
        if not _said_by_first(store, rank, str(error)):
            raise
        raise FollowedRank(error.exit_code) from error
    except (dist.DistError, RuntimeError) as error:
        if not _is_connection(error):
            raise
        if local:  # one message a node is enough
            raise FollowedRank(PeerLost.exit_code) from error
        raise PeerLost(_lost(error)) from error


#: Whether this process has others that it has not left together with.
_abandoned = False


def end_at_once(error: BaseException) -> None:
    """End this process without tidying up, if it fails while others of its run go on; else return.

    NCCL lets go of its communicators only with all processes of a node, as a process does at its ordinary end: one that
    fails would wait for the others, which wait for it. Its sockets, closed with it, tell them.

    Args:
        error: what it ends with; anything but a `SystemExit` is printed.
    """
    if not _abandoned:
        return
    code = error.code if isinstance(error, SystemExit) else 1
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _said_by_first(store: Any, rank: int, message: str) -> bool:
    """Whether the first process fails with the same message; it is given a moment."""
    with contextlib.suppress(RuntimeError):  # the store may be gone with the first process
        if rank == 0:
            store.set("failure", message)
            return False
        end = time.monotonic() + FAILURE_SECONDS
        while time.monotonic() < end and not store.check(["failure"]):
            time.sleep(0.1)
        return bool(store.check(["failure"]) and store.get("failure").decode() == message)
    return False


def _is_connection(error: BaseException) -> bool:
    """Whether an exception is what gloo, NCCL and the store say when the other end is gone or silent."""
    import torch.distributed as dist

    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return any(mark in text for mark in ("gloo", "nccl", "connection closed by peer", "connection reset"))


def _lost(error: BaseException) -> str:
    reason = first_line(error)
    return (
        f"another process of the run is gone or silent ({reason[:120]}); "
        "the same command on all nodes goes on from the last checkpoint"
    )


def _end_with(launcher: int) -> None:
    """A launcher that was killed cannot stop what it started: Linux does, and elsewhere a thread that looks."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(ORPHAN_SECONDS)
        os._exit(PeerLost.exit_code)

    if os.getppid() != launcher:  # it has ended before this one had begun
        os._exit(PeerLost.exit_code)
    threading.Thread(target=watch, daemon=True).start()
