"""This process's rank in a distributed run, and the collectives by which the processes coordinate.

`job.launch` starts the processes through torchrun, which assigns their ranks, and `joining` lets them meet. A run with
a single process uses the same code with `ALONE`. Control messages use gloo, whatever backend training uses: its sockets
notice at once when the other end is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from job.core import console
from job.core.errors import FollowedRank, first_line

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


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
