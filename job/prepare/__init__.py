"""The prepare stage: turn recordings into codec frames and x-vectors, and report on the data.

Importing this package is cheap; the work is imported when `run` is called.
"""

from __future__ import annotations

from typing import Any

from job.config.settings import Settings
from job.processes.ranks import ALONE, Ranks


def run(settings: Settings, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Turn the raw manifests into the prepared dataset (see `job.prepare.stage`).

    Args:
        settings: settings of the run.
        ranks: the processes that encode, each its own shards.

    Returns:
        Counts for the stage's state file: rows of each split, hours, speakers, rejected rows.

    Raises:
        BadInput: there is no manifest, or a reference recording or a model directory cannot be used.
        DataRefused: nothing usable is left, or the quality gate refuses the data.
    """
    from job.prepare.stage import prepare

    return prepare(settings, ranks)
