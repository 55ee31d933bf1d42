"""Training: the generation contract as a loss, the trained parameters, and the loop.

`run` is the stage; torch is imported only when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from job.processes.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from job.config.settings import Settings


def run(settings: Settings, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Train on the prepared data and write `output/best`, `output/last` and both logs. See `job.train.loop.train`."""
    from job.train.loop import train

    return train(settings, ranks)
