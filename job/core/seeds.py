"""Random seeds that depend only on the place in a run, not on restarts or the number of processes."""

from __future__ import annotations

import numpy as np


def seed_of(*place: int) -> int:
    """Return a distinct seed for every place: SEED and the indices of the draw, such as step and part."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1)
