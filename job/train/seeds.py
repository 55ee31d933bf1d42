"""Seeds that follow from a place in a run alone: a restart, or other numbers of processes, change nothing."""

from __future__ import annotations

import numpy as np


def seed_of(*place: int) -> int:
    """A seed of its own for every place: SEED and whatever else numbers are drawn by, such as step and part."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1)
