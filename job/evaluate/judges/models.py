"""Helpers for judges with a model named by a variable: its check, and the similarity of two vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.config.settings import Settings
from job.model.loading import explained
from job.model.recogniser import named


def check(settings: Settings) -> None:
    """Look for each model that a variable names, so that a wrong name ends the run before anything is trained.

    Of a model only the configuration is read; of a TorchScript file (MOS_MODEL), whether it is there.

    Raises:
        BadInput: naming the variable.
        Unreachable: the Hub cannot be reached.
    """
    for variable in ("ASR_MODEL", "MOS_MODEL", "SIMILARITY_MODEL"):
        name = named(settings) if variable == "ASR_MODEL" else getattr(settings, variable.lower())
        if not name or (variable == "MOS_MODEL" and (name == "none" or Path(name).expanduser().is_file())):
            continue
        from transformers import AutoConfig

        with explained(f"{variable}={name}"):
            AutoConfig.from_pretrained(name, token=settings.token)


def cosine(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Compute the cosine similarity of two vectors (dim,), in [-1, 1]; 0 if either is zero."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / norm if norm else 0.0
