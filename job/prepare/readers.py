"""Choose the number of threads that read recordings: enough to keep the encoder busy, as far as there are cores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from job.config.settings import Settings
from job.core import cpus

if TYPE_CHECKING:
    import torch

#: Each reads about 240 s of audio per second. Threads suffice: two of them spend 2 % of their time waiting for the GIL.
MOST_READERS = 8


def readers(settings: Settings, device: torch.device, processes: int = 1) -> int:
    """Number of threads that decode, resample and measure; with 0, the thread that consumes the clips does it.

    This is NUM_WORKERS if set. Otherwise, with a GPU, it is the number of cores minus one, up to `MOST_READERS`. A CPU
    encodes with all its cores while the main thread reads: with up to two cores, readers would only compete with it;
    with more, they get half of the cores.

    Args:
        settings: settings of the run (NUM_WORKERS).
        device: device that encodes the clips.
        processes: processes of this node, which share its cores.
    """
    if settings.num_workers is not None:
        return settings.num_workers
    cores = (cpus.limit() or cpus.available()) // processes
    if device.type != "cpu":
        return min(max(cores - 1, 1), MOST_READERS)
    return min(cores // 2, MOST_READERS) if cores > 2 else 0
