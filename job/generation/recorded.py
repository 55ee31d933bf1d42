"""Work of fixed shapes, recorded once as a CUDA graph and replayed.

The sub-talker's steps of a frame are over a thousand kernels of a few microseconds each, and the host takes longer to
launch one than the GPU to run it. They are the same for every frame: nothing in them depends on a value, and keys and
values lie in memory that stays. Replayed, they are launched all at once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

#: Runs before recording: libraries choose their kernels and take their memory in the first.
WARM_UP = 2

Work = Callable[..., tuple[torch.Tensor, ...]]


class Unlike(RuntimeError):
    """What was recorded does not give what the work itself gives."""


class Recorded:
    """`work`, called with tensors of the shapes of `examples`.

    Args:
        work: computes tensors from tensors on one CUDA device, waiting for no value. Random numbers come from the
            device's own generator, and are those that the work itself would draw.
        examples: inputs; the work is run on them, and the generator put back.

    Raises:
        RuntimeError: it cannot be recorded, or gives something else when replayed (`Unlike`).
    """

    def __init__(self, work: Work, *examples: torch.Tensor) -> None:
        device = examples[0].device
        self._inputs = [example.clone() for example in examples]
        random = torch.cuda.get_rng_state(device)
        with torch.cuda.device(device):
            here = torch.cuda.current_stream()
            try:
                self._graph, self._outputs = _record(work, self._inputs)
            except BaseException:
                # torch leaves the recording's stream the current one, and the generator as if it were still recorded.
                torch.cuda.set_stream(here)
                unused = torch.Generator(device).graphsafe_get_state()
                torch.cuda.default_generators[device.index].graphsafe_set_state(unused)
                torch.cuda.set_rng_state(random, device)
                raise
        torch.cuda.set_rng_state(random, device)
        expected = work(*examples)
        torch.cuda.set_rng_state(random, device)
        found = self(*examples)
        torch.cuda.set_rng_state(random, device)
        for one, other in zip(found, expected, strict=True):
            alike = torch.allclose(one, other, rtol=0.02) if one.is_floating_point() else torch.equal(one, other)
            if not alike:
                raise Unlike("a recorded frame differs from one that was not recorded")

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The work's outputs for other inputs."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)


def _record(work: Work, inputs: list[torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...]]:
    """The graph, and the memory that replaying it leaves the outputs in."""
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(here)
    with torch.cuda.stream(aside), _without_waiting():
        for _ in range(WARM_UP):
            work(*inputs)
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Another thread may take pinned memory meanwhile, for the next batches.
    with _uncollected(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        return graph, work(*inputs)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: freeing what belongs to another graph, or an event, breaks a recording."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def _without_waiting() -> Iterator[None]:
    """An error where the host would wait for a value of the GPU's: a recording that it breaks is harder to leave."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def recordable(tensor: torch.Tensor) -> bool:
    """Whether work on its device can be recorded."""
    return tensor.is_cuda
