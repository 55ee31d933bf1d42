"""Trying torch's fused kernels before they are used: a wrong or missing one must cost speed, not the voice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from job.errors import first_line
from job.exhausted import is_out_of_memory

Results = Sequence[torch.Tensor]


def problem(results: Callable[[], tuple[Results, Results]], tolerance: float) -> str:
    """Why a kernel cannot be used; empty if it gives what plain operations give.

    Args:
        results: the kernel's, and theirs.
        tolerance: the most that the norm of a difference may be, as a share of the expected norm.

    Raises:
        RuntimeError: that memory is used up, which says nothing about the kernel; the step is begun again with less.
    """
    try:
        pairs = zip(*results(), strict=True)
        right = all(bool((a.double() - b.double()).norm() <= tolerance * b.double().norm()) for a, b in pairs)
    except (RuntimeError, TypeError, ImportError, AttributeError) as error:  # no such kernel, or not for this GPU
        if is_out_of_memory(error):
            raise
        return first_line(error)
    return "" if right else "its results differ"
