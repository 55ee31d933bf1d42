"""Reading ahead in threads, and computing so that the number of threads does not change the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar, cast

A = TypeVar("A")
B = TypeVar("B")


def in_order(
    inputs: Iterable[A],
    function: Callable[[A], B],
    workers: int,
    initialize: Callable[[], Any] | None = None,
    name: str = "audio",
) -> Iterator[B]:
    """`map` with `workers` threads and bounded read-ahead; results and exceptions come in the order of the inputs.

    Threads suffice because decoding, resampling, the codec and NumPy release the interpreter's lock.

    Args:
        inputs: consumed in the caller's thread, at most `2 * workers` ahead.
        function: must not depend on what the caller does meanwhile.
        workers: number of threads; 0 is plain `map`.
        initialize: called first in every thread.
        name: name of the threads.
    """
    if workers == 0:
        yield from map(function, inputs)
        return
    pending: deque[Future[B]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix=name, initializer=initialize)
    try:
        for value in inputs:
            pending.append(pool.submit(function, value))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def ahead(inputs: Iterator[A], stop: Callable[[], Any], name: str = "ahead") -> Iterator[A]:
    """Yield the inputs, with a thread preparing the next one (and no more) while the caller works on the current one.

    Args:
        inputs: consumed in that thread; their exceptions are raised at their place in the sequence.
        stop: called when the caller stops iterating, so that an input still being prepared may end early.
        name: name of the thread.
    """
    end = object()
    pool = ThreadPoolExecutor(1, thread_name_prefix=name)
    try:
        coming = pool.submit(next, inputs, end)
        while (found := coming.result()) is not end:
            coming = pool.submit(next, inputs, end)
            yield cast(A, found)
    finally:
        stop()
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute in the calling thread only: the rounding of a sum depends on how many threads share it.

    Results then depend neither on the machine's number of cores nor on how many threads run in parallel.
    """
    import torch

    # The number is per thread. It must be read before it is set: a new thread adopts the process's number when it is
    # first read, whatever was set before.
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def reproducible() -> Iterator[None]:
    """Use full fp32 and deterministic algorithms: codes are an argmin, so tiny numerical noise would change them."""
    import torch

    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with flags, one_torch_thread():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
