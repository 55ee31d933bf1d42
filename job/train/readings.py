"""Device-to-host copies: numbers asynchronously, large tensors in pieces."""

from __future__ import annotations

import torch


class Reading:
    """An asynchronous copy of numbers to the host. Reading them synchronously would leave the GPU idle.

    Args:
        values: (n,) on any device; may be modified afterwards.
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
        """Return the copy on the host, waiting until it is complete."""
        if self._there is not None:
            self._there.synchronize()
        return self._values

    def numbers(self) -> list[float]:
        """Return the numbers, waiting until they are copied."""
        return [float(value) for value in self.tensor().tolist()]


def fill(target: torch.Tensor, source: torch.Tensor, piece_bytes: int = 4 << 20) -> None:
    """Copy a GPU tensor into pageable host memory, overlapping the transfer of each piece with storing the previous.

    Args:
        target: contiguous, on the CPU; values are converted to its dtype on the source's device.
        source: same shape, on any device.
        piece_bytes: page-locked memory used per piece.
    """
    # The driver copies directly to pageable memory with only one thread. A page-locked snapshot would be faster still,
    # but torch never frees such memory and allocates powers of two: 20 GB instead of 16 for 1.7B, full.
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
