"""What judges that a variable names have in common: their identity, and what is said when one cannot be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.core import files
from job.core.errors import BadInput, first_line


def identity(name: str) -> str:
    """A model's name, and for one that is here what tells that its files are the same as last time."""
    path = Path(name).expanduser()
    if not path.exists():
        return name
    return f"{name} ({files.digest_bytes(repr(files.identity(path)).encode())[:12]})"


def unusable(variable: str, name: str, error: Exception) -> BadInput:
    """The error for a model that a variable names and that cannot be loaded."""
    reason = first_line(error)
    return BadInput(f"{variable}={name}: cannot be loaded ({reason}); give a model directory or a Hub repo")


def cosine(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Cosine of the angle between two vectors of one shape (dim,), in [-1, 1]; 0 when one is zero."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / norm if norm else 0.0
