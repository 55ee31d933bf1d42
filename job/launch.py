"""Run stages in several processes: some on all GPUs of all nodes, the others once, on the first node.

    node 0:    doctor, fetch   ->  prepare, train in one process per GPU  ->  validate, push, synthesize, report
    others:    wait            ->  prepare, train                         ->  done

torchrun's launcher starts the processes. WORK_DIR is on a volume that all nodes share; where each node has one of its
own, node 0 prepares alone, and MIRROR_CHECKPOINTS brings data and checkpoints to the others (`job.mirror.own_disks`).
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from job import pipeline, stages
from job.config.settings import Settings
from job.core import errors, files, state
from job.core.console import say, warn
from job.core.errors import BadInput, JobError, PeerLost, StoppedBySignal
from job.processes.joining import AGAIN, MEETING
from job.processes.nodes import POLL, Gathering
from job.processes.per_node import processes_per_node
from job.processes.pulse import Pulse


class ChildFailed(JobError):
    """A child process has failed and has printed why; `exit_code` is its exit code, `killed` whether it was killed."""

    def __init__(self, exit_code: int, *, killed: bool = False) -> None:
        super().__init__("")
        self.exit_code, self.killed = exit_code, killed


def is_spread(settings: Settings, first: str, last: str) -> bool:
    """Whether stages `first` to `last` are to run in several processes."""
    wanted = any(stage.spread for stage in stages.between(settings, first, last))
    return wanted and (settings.num_nodes > 1 or processes_per_node(settings) > 1)


def run(settings: Settings, first: str, last: str) -> None:
    """Run stages `first` to `last`: distributed stages in all processes of all nodes, the others on node 0.

    Raises:
        ChildFailed: with the exit code of the process that failed.
        BadInput, NodesMissing: the nodes could not meet.
        StoppedBySignal: passed on to all processes; running the same command again resumes.
    """
    if settings.node_rank >= settings.num_nodes:
        raise BadInput(f"NODE_RANK={settings.node_rank}: nodes are numbered from 0, and NUM_NODES={settings.num_nodes}")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no C++ stack traces beside the one line about a lost node
    wanted = stages.between(settings, first, last)
    names, spread = [stage.name for stage in wanted], [stage.name for stage in wanted if stage.spread]
    begin = names.index(spread[0])  # the distributed stages are consecutive
    before, after = names[:begin], names[begin + len(spread) :]
    if settings.node_rank > 0:
        with Gathering(settings) as nodes:
            _follow(settings, nodes, spread)
        return
    if _alone_from_here(settings):
        say("run", "all distributed stages are finished; node 0 continues with the rest without the other nodes")
        with ExitStack() as held:
            with suppress(BadInput):  # an address that is not this node's any more
                held.enter_context(Gathering(settings)).dismiss()
            pipeline.run(settings, first, last)
        _forget_alone(settings)
        return
    with Gathering(settings) as nodes:
        nodes.show(_mark_of(settings))
        if before:
            _child(settings, before[0], before[-1], nodes.look)
        if nodes.gather():
            if "prepare" in spread and pipeline.is_due(settings, "prepare"):
                _torchrun(settings.model_copy(update={"num_nodes": 1}), "prepare", "prepare")
            nodes.start()
            if "train" in spread:
                _persistently(settings, nodes, "train", "train", own_disks=True)
        else:
            _persistently(settings, nodes, spread[0], spread[-1])
    if settings.num_nodes > 1 and after:
        _remember_alone(settings)
    if after:
        pipeline.run(settings, after[0], after[-1])
    _forget_alone(settings)


def _follow(settings: Settings, nodes: Gathering, spread: list[str]) -> None:
    """Do a node's part that is not the first: the distributed stages, of which node 0 prepares alone on own disks."""
    own_disks = nodes.follow()
    mine = [name for name in spread if name == "train" or not own_disks]
    if not mine:
        return
    try:
        _persistently(settings, nodes, mine[0], mine[-1], own_disks=own_disks)
    except ChildFailed as error:
        if not error.killed:  # whose reason is in this log already
            say("run", f"node {settings.node_rank} ends with exit code {error.exit_code}; node 0's log says why")
        raise


# ---- the processes of this node --------------------------------------------------------------------------------------


def _child(settings: Settings, first: str, last: str, meanwhile: Callable[[], None]) -> None:
    """Run stages in a child process, so that this one does not hold GPU memory that training needs.

    Args:
        meanwhile: called again and again; what it raises ends the child.
    """
    child = subprocess.Popen([sys.executable, "-m", "job", "run", "--from", first, "--until", last])
    code = None
    try:
        while code is None:
            with suppress(subprocess.TimeoutExpired):
                code = child.wait(POLL)
            meanwhile()
    except BaseException:
        child.terminate()
        try:
            child.wait(settings.grace_seconds)
        except subprocess.TimeoutExpired:
            child.kill()
        raise
    _check(code)


def _persistently(settings: Settings, nodes: Gathering, first: str, last: str, *, own_disks: bool = False) -> None:
    """Run stages in all processes, and start them again where they are when one was killed, up to MAX_RESTARTS times.

    Not torchrun's own restarts: they do not tell a process that was killed from one that has refused bad data, and
    reuse a store that holds the addresses of the processes before.
    """
    for attempt in range(settings.max_restarts + 1):
        try:
            _torchrun(settings, first, last, own_disks=own_disks, attempt=attempt)
            return
        except ChildFailed as error:
            passing = error.killed or error.exit_code == errors.STOPPED_BY_SIGNAL
            if attempt == settings.max_restarts or not passing or not nodes.again(attempt + 1, killed=error.killed):
                raise
            say("run", f"starting the processes again, {attempt + 1} of MAX_RESTARTS={settings.max_restarts}")


def _torchrun(settings: Settings, first: str, last: str, *, own_disks: bool = False, attempt: int = 0) -> None:
    """Run stages in all processes, through torchrun's own launcher, which does not pass exit codes on."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # our processes print errors themselves, in one line
    one_node = settings.num_nodes == 1
    count = processes_per_node(settings)
    logs = tempfile.TemporaryDirectory(prefix="torchrun-")  # torchrun always creates one and never removes it
    config = LaunchConfig(
        logs_specs=DefaultLogsSpecs(log_dir=logs.name),
        min_nodes=settings.num_nodes,
        max_nodes=settings.num_nodes,
        nproc_per_node=count,
        run_id=f"qwen3-tts-job-{attempt}",
        rdzv_backend="c10d" if one_node else "static",
        # On one node use any free port, so that two jobs can share a machine.
        rdzv_endpoint="localhost:0" if one_node else f"{settings.master_addr}:{settings.master_port}",
        rdzv_configs={} if one_node else {"rank": settings.node_rank, "timeout": int(MEETING.total_seconds())},
        local_addr="localhost" if one_node else None,
        max_restarts=0,  # `_persistently` starts processes again; the scheduler, all nodes when one is lost
    )
    part = first if first == last else f"{first} to {last}"
    say("run", f"{part}: {count} processes on each of {settings.num_nodes} nodes")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    started_by = ["--launcher", str(os.getpid()), "--nodes", str(settings.num_nodes), "--attempt", str(attempt)]
    started_by += ["--own-disks"] if own_disks else []
    command = ["-m", "job", "run", "--from", first, "--until", last, *started_by]
    try:
        with Pulse(settings, attempt):
            _finished(settings, lambda: elastic_launch(config, sys.executable)(*command))
    finally:
        logs.cleanup()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _finished(settings: Settings, launch: Callable[[], Any]) -> None:
    """Run processes to their end, and turn what torchrun's launcher raises into what it means."""
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch()
    except ChildFailedError as error:
        _check(_cause([failure.exitcode for failure in error.failures.values()]))
    except SignalException as error:
        raise StoppedBySignal(f"stopped by {error.sigval.name}; run the same command again to continue") from error
    except DistError as error:
        whose = "node 0" if settings.node_rank else "a node"  # the others are connected with node 0 only
        raise PeerLost(
            f"{whose} was lost before the processes of all had started ({errors.first_line(error)}){AGAIN}"
        ) from error


def _cause(codes: list[int]) -> int:
    """The exit code that gives the original cause, among those of processes that brought one another down."""
    known = (errors.BAD_INPUT, errors.DATA_REFUSED, errors.TRAINING_STOPPED)
    for likely in (
        [code for code in codes if code in known],
        [code for code in codes if code not in (errors.STOPPED_BY_SIGNAL, *_ASKED)],
        [code for code in codes if code == errors.STOPPED_BY_SIGNAL],
        codes,
    ):
        if likely:
            return likely[0]
    return 1


#: Exit codes of a process that was asked to stop before its signal handlers were installed.
_ASKED = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)


def _check(code: int) -> None:
    if code in _ASKED:
        code = errors.STOPPED_BY_SIGNAL
    elif code < 0:
        name = signal.Signals(-code).name
        hint = " (the machine may have run out of memory)" if name == "SIGKILL" else ""
        warn("run", f"a process was killed by {name}{hint}; run the same command again to resume from a checkpoint")
        raise ChildFailed(1, killed=True)
    if code:
        raise ChildFailed(code)


# ---- continuing without the other nodes ------------------------------------------------------------------------------
# When publishing fails after training, node 0 is restarted and the other nodes, which have finished, are not.


def _marker(settings: Settings) -> Path:
    return settings.paths.state / "alone.json"


def _alone_from_here(settings: Settings) -> bool:
    if settings.num_nodes == 1 or settings.force:
        return False
    try:
        marked: Any = files.read_json(_marker(settings))
    except (OSError, ValueError):
        return False
    return bool(marked == {"train": state.digest(settings.paths.state, "train")})


def _remember_alone(settings: Settings) -> None:
    files.write_json(_marker(settings), {"train": state.digest(settings.paths.state, "train")})


def _forget_alone(settings: Settings) -> None:
    _marker(settings).unlink(missing_ok=True)


def _mark_of(settings: Settings) -> str:
    """Write a marker file into WORK_DIR, so that the other nodes can tell whether they share the volume."""
    mark = f"{secrets.token_hex(8)} {time.time_ns()}"
    files.write_text(settings.paths.state / "nodes.mark", mark)
    return mark
