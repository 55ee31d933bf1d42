"""Helpers for judges with a model named by a variable: vectors, and the error if it cannot be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.core.errors import BadInput, first_line


@contextmanager
def loading(variable: str, name: str) -> Iterator[None]:
    """Load a model named by a variable in the body of this.

    Raises:
        BadInput: it cannot be loaded; naming the variable.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = first_line(error)
        wrong = f"{variable}={name}: cannot be loaded ({reason}); give a model directory or a Hub repo"
        raise BadInput(wrong) from error


def cosine(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Compute the cosine similarity of two vectors (dim,), in [-1, 1]; 0 if either is zero."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / norm if norm else 0.0
