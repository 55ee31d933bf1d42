"""How many threads read recordings: as many as keep the encoder busy, where there are cores for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from job.config.settings import Settings
from job.core import cpus

if TYPE_CHECKING:
    import torch

#: Each reads some 240 s of audio a second. Threads will do: two wait 2 % of their time for the interpreter's lock.
MOST_READERS = 8


def readers(settings: Settings, device: torch.device, processes: int = 1) -> int:
    """Threads that decode, resample and measure; with 0 the thread that takes the clips does so.

    NUM_WORKERS where it is set. Else, beside a GPU, all cores but one. A CPU encodes with all its cores while the main
    thread reads: on two cores readers would only be in the way, on more they are half of them.

    Args:
        settings: NUM_WORKERS.
        device: where the clips are encoded.
        processes: of this node that share its cores.
    """
    if settings.num_workers is not None:
        return settings.num_workers
    cores = (cpus.limit() or cpus.available()) // processes
    if device.type != "cpu":
        return min(max(cores - 1, 1), MOST_READERS)
    return min(cores // 2, MOST_READERS) if cores > 2 else 0
