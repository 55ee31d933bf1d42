"""Working ahead in threads, and computing so that their number does not change the results."""

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
    """`map` with `workers` threads and bounded read-ahead; results, and failures, come in the order of the inputs.

    Threads suffice because decoding, resampling, the codec's arithmetic and NumPy's run outside the interpreter's lock.

    Args:
        inputs: taken in the caller's thread, at most `2 * workers` ahead.
        function: does not depend on what the caller does meanwhile.
        workers: threads; with 0 it is `map`.
        initialize: called first in every thread.
        name: of the threads.
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
    """The same inputs; a thread takes the next one while the caller works on the last, and none beyond it.

    Args:
        inputs: taken in that thread; their failures come in their place.
        stop: called when the caller wants no more; an input that is being made may end early then.
        name: of the thread.
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
    """Let torch compute in the calling thread alone: a sum that several threads share is rounded differently.

    What is computed so does not depend on the machine's number of cores, or on how many threads work side by side.
    """
    import torch

    # The number is a thread's own. It must be asked for before it is set: a new thread takes over the process's number
    # when it is first asked, whatever was set in it before.
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
    """Full fp32 convolutions, fixed algorithms, sums in one order: codes are an argmin, so small noise changes them."""
    import torch

    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with flags, one_torch_thread():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
