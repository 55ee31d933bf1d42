"""Record a computation of fixed shapes as a CUDA graph and replay it.

The sub-talker's steps for a frame are over a thousand kernels of a few microseconds each, and the host takes longer to
launch one than the GPU to run it. They are the same for every frame: nothing depends on a value, and keys and values
stay at the same addresses. A replay launches them all at once.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

#: Warm-up runs before recording: libraries choose kernels and allocate memory in the first.
WARM_UP = 2

Work = Callable[..., tuple[torch.Tensor, ...]]


class Unlike(RuntimeError):
    """Replaying the graph gives a different result from running the work directly."""


class Recorded:
    """`work` as a CUDA graph, called with tensors of the same shapes as `examples`.

    Args:
        work: computes tensors from tensors on one CUDA device, without synchronising. Random numbers come from the
            device's default generator, and are the same as without recording.
        examples: inputs on which the work is run for recording; the generator's state is restored.

    Raises:
        RuntimeError: it cannot be recorded, or gives a different result when replayed (`Unlike`).
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
                # torch leaves the capture stream as the current one, and the generator in capture mode.
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
                raise Unlike("a frame from the CUDA graph differs from one computed directly")

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The work's outputs for other inputs."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)


def _record(work: Work, inputs: list[torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...]]:
    """Record the graph; returns it and the tensors that a replay writes its outputs into."""
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(here)
    with torch.cuda.stream(aside), _without_waiting():
        for _ in range(WARM_UP):
            work(*inputs)
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Another thread may allocate pinned memory meanwhile, for the next batches.
    with _uncollected(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        return graph, work(*inputs)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Turn off garbage collection: freeing another graph's memory, or an event, would break the recording."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def _without_waiting() -> Iterator[None]:
    """Make synchronising with the GPU an error, which is easier to recover from than a broken recording."""
    before = torch.cuda.get_sync_debug_mode()
    _make_waiting("error")
    try:
        yield
    finally:
        _make_waiting(before)


def _make_waiting(mode: int | str) -> None:
    """Set what torch makes of synchronising, without its warning that this finds not all of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)


def recordable(tensor: torch.Tensor) -> bool:
    """Whether work on this device can be recorded as a CUDA graph."""
    return tensor.is_cuda
