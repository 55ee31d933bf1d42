"""Numbers that a device is still computing, read on the host when they are there."""

from __future__ import annotations

import torch


class Reading:
    """A copy of numbers, under way to the host. Asking for them at once would keep a GPU waiting for its next work.

    Args:
        values: (n,) on any device; may be changed afterwards.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self._there: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._there.record()
        else:
            self._values = values.detach().clone()

    def numbers(self) -> list[float]:
        """The numbers; waits for what they come from."""
        if self._there is not None:
            self._there.synchronize()
        return [float(value) for value in self._values.tolist()]
