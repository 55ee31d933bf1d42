"""Work of fixed shapes, recorded once as a CUDA graph and replayed.

The sub-talker's steps of a frame are over a thousand kernels of a few microseconds each, and the host takes longer to
launch one than the GPU to run it. They are the same for every frame: nothing in them depends on a value, and keys and
values lie in memory that stays. Replayed, they are launched all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
            aside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    work(*self._inputs)
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._outputs = work(*self._inputs)
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


def recordable(tensor: torch.Tensor) -> bool:
    """Whether work on its device can be recorded."""
    return tensor.is_cuda
