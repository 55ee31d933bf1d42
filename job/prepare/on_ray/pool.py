"""Hands portions of shards out to the workers of a Ray cluster, and those of lost workers to others."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config.settings import Settings
from job.core import console, files
from job.core.errors import JobError, PeerLost, first_line
from job.prepare.codec import Codec
from job.prepare.on_ray.portions import Assembly, Portion, begun
from job.prepare.on_ray.supply import Supplier
from job.prepare.on_ray.workers import Encoder, Rows, order_for, read_rows
from job.prepare.row_encoder import STAGE

if TYPE_CHECKING:
    import pyarrow as pa

    from job.prepare.encode import Item
    from job.prepare.manifest_rows import Row
    from job.prepare.shards import Shard

#: Rows that one task of Ray reads for an encoder.
READ_ROWS = 32
#: Rows of a portion on CPUs, small enough that all workers end at about the same time. On a GPU it is a whole shard,
#: whose clips are batched as they would be without Ray.
PORTION_ROWS = 16
#: Portions that a worker has at a time: while it encodes one the next is read, or is there already.
DEPTH = 2
#: How often a portion, or the start of a worker, may lose its worker before the run fails.
MOST_LOSSES = 5
#: Seconds between two looks at the cluster, which may have grown.
LOOK_SECONDS = 5.0
#: Seconds for which the cluster may be out of reach. After 60 s Ray ends the process, without a word.
LOST_SECONDS = 20.0
#: Seconds between two lines that say that no worker is there yet.
STILL_SECONDS = 60.0


@dataclass(slots=True)
class _Worker:
    """An encoder: its actor, its portions, the oldest first, and its machine (`place`) once it is ready."""

    actor: Any
    tasks: dict[Any, Portion] = field(default_factory=dict)
    place: str | None = None


class Pool:
    """The workers of a connected Ray cluster.

    Attributes:
        device: type of the device that they encode on.
    """

    def __init__(self, settings: Settings) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        self._settings = settings
        gpus = ray.cluster_resources().get("GPU", 0)
        on_gpus = settings.device.startswith("cuda") or (settings.device == "auto" and gpus >= 1)
        self.device = "cuda" if on_gpus else "cpu"
        # Encoding takes a whole core on a CPU; beside a GPU it waits for it, and all cores are left to the readers.
        self._reads_apart = on_gpus if settings.ray_readers is None else settings.ray_readers
        resources = {"num_cpus": 0 if self._reads_apart else 1, "num_gpus": int(on_gpus)}
        # A lost worker is replaced by this class, which counts the losses; Ray repeats what reads and supplies.
        self._encoder = ray.remote(Encoder).options(**resources, max_restarts=0)
        self._reader = ray.remote(read_rows).options(num_cpus=1, max_retries=MOST_LOSSES)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        supplier = ray.remote(Supplier).options(
            num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
        )
        self._supplier = supplier.remote()
        self._order: Any = None
        self._workers: list[_Worker] = []
        self._starting: dict[Any, _Worker] = {}
        self._failed_starts = 0
        self._wanted = 0
        self._address: str = ray.get_runtime_context().gcs_address
        self._looked = self._said = float("-inf")
        self._reached = time.monotonic()

    def begin(self, codec: Codec, directory: Path) -> None:
        """Tell the workers-to-be which codec to use, that of `directory`."""
        self._order = self._ray.put(order_for(self._settings, codec, directory, self.device))

    def encoded(
        self, split: str, due: Iterable[tuple[Shard, list[Row]]], earlier: Callable[[Row], pa.Table | None]
    ) -> Generator[tuple[Shard, list[Item]], None, None]:
        """Yield the shards with their items, each as soon as it is complete.

        Args:
            split: the split of the shards.
            due: the shards and their rows; consumed as workers become free.
            earlier: what an earlier run encoded of a row, which is then sent to no worker.

        Raises:
            JobError: whatever a worker refuses with, or that the same rows end one worker after another.
        """
        waiting: deque[Portion] = deque()
        rest = iter(due)
        size = None if self.device == "cuda" else PORTION_ROWS
        while True:
            if not self._look():
                time.sleep(1.0)  # nothing of Ray is called meanwhile: it would wait, and end this process in the end
                continue
            while len(waiting) <= self._wanted and (one := next(rest, None)) is not None:
                assembly, portions = begun(*one, size, earlier)
                waiting.extend(portions)
                if not portions:
                    yield assembly.shard, assembly.items()
            under_way = sum(len(worker.tasks) for worker in self._workers)
            if not waiting and not under_way:
                return
            while len(self._workers) < min(self._wanted, len(waiting) + under_way):
                self._hire()
            self._hand_out(split, waiting)
            futures = [*self._starting, *(future for worker in self._workers for future in worker.tasks)]
            done, _ = self._ray.wait(futures, timeout=LOOK_SECONDS)
            for future in done:
                if future in self._starting:
                    self._started(future)
                    continue
                worker = next((one for one in self._workers if future in one.tasks), None)
                if worker is not None and (complete := self._finished(worker, future, waiting)) is not None:
                    yield complete.shard, complete.items()
            if not done:
                self._say_if_nobody_is_there()

    def _look(self) -> bool:
        """Find how many encoders the cluster has room for. Returns whether it can be reached.

        Raises:
            PeerLost: it could not be reached for `LOST_SECONDS`, or another one is at its address.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return True
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_SECONDS).close()
            room = self._room()
        except self._ray.exceptions.AuthenticationError as error:  # it answers, and does not know this job
            raise PeerLost(
                f"the Ray cluster at {self._address} has been started anew; run the same command again to continue"
            ) from error
        except (OSError, self._ray.exceptions.RpcError, self._ray.exceptions.GetTimeoutError) as error:
            if now - max(self._looked, self._reached) > LOST_SECONDS:
                raise PeerLost(
                    f"the Ray cluster at {self._address} was lost ({first_line(error)[:120]}); run the same command "
                    "again to continue"
                ) from error
            return False
        self._looked = self._reached = now
        self._wanted = self._settings.ray_encoders or max(1, room)
        return True

    def _room(self) -> int:
        """How many encoders there is room for. Ray's own sum ends this process if the head is a new one."""
        nodes = self._ray._private.worker.global_worker.gcs_client.get_all_node_info(timeout=LOOK_SECONDS)
        kind = "GPU" if self.device == "cuda" else "CPU"
        return int(sum(node.resources_total.get(kind, 0) for node in nodes.values() if node.state == 0))  # ALIVE

    def _hire(self) -> None:
        worker = _Worker(self._encoder.remote(self._order, self._supplier))
        self._workers.append(worker)
        self._starting[worker.actor.load.remote()] = worker

    def _hand_out(self, split: str, waiting: deque[Portion]) -> None:
        """Give waiting portions to the workers that are ready, one each before any gets a second one."""
        ready = [worker for worker in self._workers if worker.place is not None]
        for depth in range(1, DEPTH + 1):
            for worker in sorted(ready, key=lambda one: len(one.tasks)):
                if waiting and len(worker.tasks) < depth:
                    task = waiting.popleft()
                    worker.tasks[self._submit(worker, split, task)] = task

    def _submit(self, worker: _Worker, split: str, task: Portion) -> Any:
        stamps = [None if row.audio is None else files.stamp(row.audio) for row in task.rows]
        rows = Rows(split, task.rows, stamps)
        pieces = None
        if self._reads_apart:
            parts = [rows[start : start + READ_ROWS] for start in range(0, len(task.rows), READ_ROWS)]
            pieces = [self._reader.remote(part, self._order, self._supplier) for part in parts]
        return worker.actor.encode.remote(rows, pieces)

    def _started(self, future: Any) -> None:
        worker = self._starting.pop(future)
        try:
            worker.place = self._ray.get(future)
            self._failed_starts = 0
        except self._ray.exceptions.RayError as error:
            reason = _reason(self._ray, error)
            self._dismiss(worker)
            self._failed_starts += 1
            if self._failed_starts == MOST_LOSSES:
                raise JobError(f"ENGINE=ray: {MOST_LOSSES} workers ended while they started ({reason})") from error

    def _finished(self, worker: _Worker, future: Any, waiting: deque[Portion]) -> Assembly | None:
        """Take what a worker returns, or have it encoded again if that was lost. Returns a shard that is complete."""
        first = next(iter(worker.tasks)) == future
        task = worker.tasks.pop(future)
        try:
            found = self._ray.get(future)
        except self._ray.exceptions.RayError as error:
            reason = _reason(self._ray, error)
            task.losses += first and not getattr(error, "preempted", False)
            rows = task.named()
            if task.losses == MOST_LOSSES:
                raise JobError(
                    f"ENGINE=ray: {MOST_LOSSES} workers were lost over {rows} ({reason}); if they ran out of memory, "
                    "give them more, or set a lower RAY_ENCODERS"
                ) from error
            console.warn(STAGE, f"a Ray worker on {worker.place} was lost ({reason}); {rows} are encoded again")
            waiting.append(task) if task.losses else waiting.appendleft(task)
            if not isinstance(error, self._ray.exceptions.RayTaskError):  # then the worker itself is still there
                waiting.extend(worker.tasks.values())
                self._dismiss(worker)
            return None
        return task.done(found, worker.place)

    def _dismiss(self, worker: _Worker) -> None:
        worker.tasks.clear()
        self._workers.remove(worker)
        self._looked = float("-inf")  # perhaps the whole cluster is lost
        if self._look():
            self._ray.kill(worker.actor)

    def _say_if_nobody_is_there(self) -> None:
        now = time.monotonic()
        if any(worker.place for worker in self._workers) or now - self._said < STILL_SECONDS:
            return
        self._said = now
        kind = "GPU" if self.device == "cuda" else "CPU"
        console.say(STAGE, f"waiting for Ray to start workers: {self._wanted} with one {kind} each")


def _reason(ray: Any, error: BaseException) -> str:
    """Why a worker was lost, in one line.

    Raises:
        Exception: what the job's own code raised on the worker.
    """
    cause: BaseException = error
    while isinstance(cause, ray.exceptions.RayTaskError):
        if cause.cause is None or cause.cause is cause:
            break
        cause = cause.cause
    if not isinstance(cause, ray.exceptions.RayError):
        raise cause from (None if isinstance(cause, JobError) else error)
    return first_line(cause).rstrip(".")
