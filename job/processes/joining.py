"""How a process of a run over several joins the others, leaves them, and ends when one of them is lost."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from job.core import console
from job.core.errors import BadInput, FollowedRank, JobError, PeerLost, StoppedBySignal, first_line
from job.core.out_of_memory import SAYINGS
from job.processes.ranks import Ranks

if TYPE_CHECKING:
    import torch

    from job.config.settings import Settings

#: Timeout of a collective while all processes are alive; the longest wait is for a checkpoint on a slow volume.
PATIENCE = timedelta(minutes=30)
#: The same for control messages, which wait while the first rank works alone.
CONTROL_PATIENCE = timedelta(days=2)
#: Timeout of the meeting of all processes, which waits for nobody's work.
MEETING = timedelta(minutes=3)
#: Seconds for what they exchange through NCCL then, from when all are there: less, since torch kills what passes it.
FIRST_EXCHANGE = 120.0
#: What is to be done where a node or a process is lost; ends a message.
AGAIN = "; run the same command on all nodes again to resume from the last checkpoint"
#: Key in the store: all processes have met.
MET = "met"
#: Seconds to wait whether the first process fails as well.
FAILURE_SECONDS = 2.0
#: Seconds between two checks whether the launcher is still alive.
ORPHAN_SECONDS = 2.0
_PR_SET_PDEATHSIG = 1


@contextmanager
def joined(
    settings: Settings, launcher: int, *, trains: bool = True, own_disks: bool = False, attempt: int = 0
) -> Iterator[Ranks]:
    """Context manager that joins the process group, and leaves it together with the other processes.

    Args:
        settings: DEVICE and NODE_RANK are used.
        launcher: process id of the launcher; this process ends when the launcher does.
        trains: whether they will train, so that their GPUs must reach one another.
        own_disks: whether each node has a WORK_DIR of its own.
        attempt: how often the processes of this run have been started before.

    Raises:
        PeerLost: another process was lost.
        FollowedRank: this process fails with the same error as the first one, which reports it.
        BadInput: this process's GPU is full.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    global _abandoned
    _end_with(launcher)
    local = dist.get_node_local_rank()
    cuda = settings.device in ("auto", "cuda") and torch.cuda.is_available()
    if cuda:
        try:
            torch.cuda.set_device(local)
        except RuntimeError as error:
            if full := _full(local, error):
                raise full from error
            raise
    try:
        store, rank, world = next(rendezvous("env://", timeout=MEETING))
    except dist.DistError as error:
        if local:
            raise FollowedRank(PeerLost.exit_code) from error
        why = f"node 0 was lost before the processes had met ({first_line(error)[:120]})"
        raise PeerLost(f"{why}; run the same command on all nodes again") from error
    store = of_attempt(store, attempt)
    if rank:
        console.be_quiet()
    apart = settings.num_nodes > 1
    control = _met(store, rank, world, local, cuda=cuda, apart=apart, exchange=cuda and (trains or apart))
    try:
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


def of_attempt(store: Any, attempt: int) -> Any:
    """The part of node 0's store that belongs to one start of the processes: what is older is no longer true."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    return PrefixStore(f"attempt {attempt} of the processes", store)


def _met(store: Any, rank: int, world: int, local: int, *, cuda: bool, apart: bool, exchange: bool) -> Any:
    """Meet all other processes, within MEETING, and exchange something; returns the group for control messages.

    Args:
        cuda: whether they compute on GPUs.
        apart: whether they are on several nodes, so that a network lies between those.
        exchange: whether their GPUs exchange something too.

    Raises:
        PeerLost, FollowedRank: some do not come, or cannot be reached.
        BadInput: this process's GPU is full.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import _set_pg_timeout

    global _abandoned
    try:
        store.set(f"here {rank}", "")
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=MEETING)
        control = dist.new_group(backend="gloo", timeout=MEETING)
        dist.barrier(group=control)
        if exchange:
            # NCCL connects only now. In a backward pass instead, it may find no memory left, and a process that comes
            # there MEETING later than another finds it gone: that is how long torch's store is asked for its address.
            _abandoned = True
            exchanged(torch.device("cuda", torch.cuda.current_device()))
        _set_pg_timeout(PATIENCE)
        _set_pg_timeout(CONTROL_PATIENCE, control)
        if rank == 0:
            store.set(MET, "")
    except StoppedBySignal as error:
        raise FollowedRank(error.exit_code) from error  # the launcher, which sends it on, says why
    except (dist.DistError, RuntimeError) as error:
        if full := _full(local, error):
            raise full from error
        if not _is_connection(error):
            raise
        if local:  # one message per node is enough
            raise FollowedRank(PeerLost.exit_code) from error
        raise PeerLost(_unmet(store, world, error, apart=apart)) from error
    return control


def _full(local: int, error: RuntimeError) -> BadInput | None:
    """What to say if a GPU has no memory left for NCCL, whose own error that is, or for CUDA; doctor looks at one."""
    if not any(saying in str(error) for saying in SAYINGS):
        return None
    return BadInput(
        f"GPU {local} of this node has no memory left ({_reason(error)[:100]}); end what else uses it, or choose "
        "others with CUDA_VISIBLE_DEVICES"
    )


def exchanged(device: torch.device, seconds: float = FIRST_EXCHANGE) -> None:
    """Add up something over all processes on a device, to see whether they can.

    Raises:
        RuntimeError: they cannot, or there is no answer in so many seconds.
    """
    import torch
    import torch.distributed as dist

    # NCCL goes other ways for much than for little, and takes its memory for each when it is first asked.
    for count in (1, 1 << 24) if device.type == "cuda" else (1,):
        work = dist.all_reduce(torch.ones(count, device=device), async_op=True)  # the first one connects them
        end = time.monotonic() + seconds
        while not work.is_completed():  # waiting itself would have no end, or that of this process
            if time.monotonic() > end:
                raise RuntimeError(f"{'NCCL' if device.type == 'cuda' else 'gloo'} gives no answer in {seconds:g} s")
            time.sleep(0.01)
        work.wait()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _unmet(store: Any, world: int, error: BaseException, *, apart: bool) -> str:
    """Why the processes have not met."""
    missing: list[str] | None = None
    with contextlib.suppress(RuntimeError):  # the store may have been lost with node 0
        missing = [str(rank) for rank in range(world) if not store.check([f"here {rank}"])]
    if missing is None:
        who = "node 0 was lost"
    elif missing:
        who = f"processes {', '.join(missing)} of {world} did not come"
    elif not apart:
        who = (
            "they do not reach one another; a container needs --ipc=host or a /dev/shm of 1 GB, NCCL_DEBUG=INFO says "
            "more, and NCCL_P2P_DISABLE=1 does without connections from one GPU to another"
        )
    else:
        who = (
            "they do not reach one another; between the nodes gloo and NCCL need any port, not MASTER_PORT alone, and "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME where a machine has several networks"
        )
    why = f"the processes of the run have not met: {who} ({_reason(error)})"
    return f"{why}; run the same command on all nodes again"


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
    return f"another process of the run was lost or does not answer ({_reason(error)}){AGAIN}"


def _reason(error: BaseException) -> str:
    """What an error of communication says in short; NCCL's own words stand in its last lines."""
    _, found, last = str(error).partition("Last error:\n")
    return (last.strip().partition("\n")[0] if found else first_line(error))[:120]


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
