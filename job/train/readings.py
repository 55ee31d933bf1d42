"""What a device has or is still computing, copied to the host: numbers without waiting, tensors by pieces."""

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

    def tensor(self) -> torch.Tensor:
        """The copy, on the host; waits for what it comes from."""
        if self._there is not None:
            self._there.synchronize()
        return self._values

    def numbers(self) -> list[float]:
        """The numbers; waits for what they come from."""
        return [float(value) for value in self.tensor().tolist()]


def fill(target: torch.Tensor, source: torch.Tensor, piece_bytes: int = 4 << 20) -> None:
    """Copy a GPU's tensor into ordinary memory of the same shape: a piece is put in place while the next is under way.

    Args:
        target: contiguous, on the CPU; its type is the one that the values take, on the GPU.
        source: on any device.
        piece_bytes: what a piece takes of page-locked memory.
    """
    # Straight into ordinary memory the driver copies with one thread. A snapshot that is itself page-locked would be
    # faster still, but torch never gives such memory back and takes powers of two: 20 GB for 1.7B, full, not 16.
    count = piece_bytes // target.element_size()
    under_way: tuple[torch.Tensor, Reading] | None = None
    places, pieces = torch.split(target.view(-1), count), torch.split(source.reshape(-1), count)
    for place, piece in zip(places, pieces, strict=True):
        reading = Reading(piece.to(target.dtype))
        if under_way is not None:
            under_way[0].copy_(under_way[1].tensor())
        under_way = place, reading
    if under_way is not None:
        under_way[0].copy_(under_way[1].tensor())
