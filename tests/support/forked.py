"""Two processes that have met over gloo, forked from the tests': torch need not be imported again."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from job.processes.ranks import Ranks


def in_two(function: Callable[[Ranks], Any], directory: Path) -> list[Any]:
    """What `function` returns in the first process and in the second; both end within a minute, or are ended.

    Args:
        directory: empty; where they meet.
    """

    def child(rank: int) -> None:
        torch.set_num_threads(1)  # those of the process that was forked are not there
        dist.init_process_group("gloo", store=FileStore(str(directory / "store"), 2), rank=rank, world_size=2)
        torch.save(function(Ranks(rank, 2, rank, dist.new_group(backend="gloo"))), directory / str(rank))
        dist.destroy_process_group()

    context = multiprocessing.get_context("fork")
    children = [context.Process(target=child, args=(rank,)) for rank in range(2)]
    for process in children:
        process.start()
    for process in children:
        process.join(60)
        if process.exitcode is None:
            process.kill()
    assert [process.exitcode for process in children] == [0, 0], "they have failed, or wait for each other"
    return [torch.load(directory / str(rank), weights_only=False) for rank in range(2)]
