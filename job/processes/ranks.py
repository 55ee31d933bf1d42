"""This process's rank in a distributed run, and the collectives by which the processes coordinate.

`job.launch` starts the processes through torchrun, which assigns their ranks. A run with a single process uses the same
code with `ALONE`. Control messages use gloo, whatever backend training uses: its sockets notice at once when the other
end is lost.
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

#: Timeout of a collective while all processes are alive; the longest wait is for a checkpoint on a slow volume.
PATIENCE = timedelta(minutes=30)
#: The same for control messages, which wait while the first rank works alone.
CONTROL_PATIENCE = timedelta(days=2)
#: Seconds to wait whether the first process fails as well.
FAILURE_SECONDS = 2.0
#: Seconds between two checks whether the launcher is still alive.
ORPHAN_SECONDS = 2.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, and collectives over all processes.

    Attributes:
        rank: 0 to world - 1.
        world: total number of processes.
        local: rank on its node, which is also its GPU's number.
        node: the number of its node.
        own_disks: whether each node has a WORK_DIR of its own.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    _control: Any = None
    node: int = 0
    own_disks: bool = False

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes the files that are written once."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """Return the first rank's `value` (picklable) on every rank."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def first_does(self, work: Callable[[], T]) -> T:
        """Call `work` on the first rank only and return its result, or its failure, on all.

        Raises:
            FollowedRank: on the other ranks, when the first has failed, which reports why.
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

    def gather(self, value: T) -> list[T]:
        """Return every rank's `value` (picklable) on every rank, in their order."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value, group=self._control)
        return found

    def each_disk(self, work: Callable[[], T]) -> list[T]:
        """Call `work` in one process for each WORK_DIR and return what it gave there, or fail everywhere.

        Raises:
            FollowedRank: on the other ranks, when one has failed, which reports why.
        """
        if not self.own_disks:
            return [self.first_does(work)]
        failure: BaseException | None = None
        result: Any = None
        if self.local == 0:
            try:
                with console.aloud():
                    result = work()
            except BaseException as error:
                failure = error
        failed = None if failure is None else (exit_code(failure), first_line(failure))
        found = self.gather((self.local == 0, self.node, result, failed))
        if failure is not None:
            raise failure
        for _, node, _, failed in found:
            if failed is not None:
                console.warn("run", f"node {node}: {failed[1]}")
                raise FollowedRank(failed[0])
        return [result for has, _, result, _ in found if has]

    def wait(self) -> None:
        """Wait until all ranks have arrived here (a barrier)."""
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier(group=self._control)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any rank."""
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
    """The exit code of a process that ends with `error`."""
    return int(getattr(error, "exit_code", 1))


@contextmanager
def joined(settings: Settings, launcher: int, *, own_disks: bool = False) -> Iterator[Ranks]:
    """Context manager that joins the process group, and leaves it together with the other processes.

    Args:
        settings: DEVICE and NODE_RANK are used.
        launcher: process id of the launcher; this process ends when the launcher does.
        own_disks: whether each node has a WORK_DIR of its own.

    Raises:
        PeerLost: another process was lost.
        FollowedRank: this process fails with the same error as the first one, which reports it.
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
        control = dist.new_group(backend="gloo", timeout=CONTROL_PATIENCE)
        ranks = Ranks(rank, world, local, control, settings.node_rank, own_disks)
        _abandoned = True  # wait for all
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
        if local:  # one message per node is enough
            raise FollowedRank(PeerLost.exit_code) from error
        raise PeerLost(_lost(error)) from error


#: Whether this process is still in a process group with others.
_abandoned = False


def end_at_once(error: BaseException) -> None:
    """Exit at once, without cleaning up, if this process fails while others of its run continue; else return.

    NCCL releases its communicators at a normal exit, and only together with all processes of a node: a failed
    process would wait for the others, which wait for it. Its sockets, closed when it exits, notify them.

    Args:
        error: the exception that ends the process; anything but a `SystemExit` is printed.
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
    """Whether the first process fails with the same message within a few seconds."""
    with contextlib.suppress(RuntimeError):  # the store may have been lost with the first process
        if rank == 0:
            store.set("failure", message)
            return False
        end = time.monotonic() + FAILURE_SECONDS
        while time.monotonic() < end and not store.check(["failure"]):
            time.sleep(0.1)
        return bool(store.check(["failure"]) and store.get("failure").decode() == message)
    return False


def _is_connection(error: BaseException) -> bool:
    """Whether an exception is how gloo, NCCL and the store report that a peer was lost or does not answer."""
    import torch.distributed as dist

    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return any(mark in text for mark in ("gloo", "nccl", "connection closed by peer", "connection reset"))


def _lost(error: BaseException) -> str:
    reason = first_line(error)
    return (
        f"another process of the run was lost or does not answer ({reason[:120]}); "
        "run the same command on all nodes again to resume from the last checkpoint"
    )


def _end_with(launcher: int) -> None:
    """Make this process end with its launcher even if that is killed: through Linux, elsewhere through a thread."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(ORPHAN_SECONDS)
        os._exit(PeerLost.exit_code)

    if os.getppid() != launcher:  # the launcher ended before this process was ready
        os._exit(PeerLost.exit_code)
    threading.Thread(target=watch, daemon=True).start()
