"""Helpers for judges with a model named by a variable: its check, and the similarity of two vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.config.settings import Settings
from job.core.files import named_identity
from job.model.card_facts import cached_name
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


def known_as(name: str) -> str:
    """Identify a model to readers: by its name on the Hub, or by its folder's or file's and what its files are like.

    The figures of a voice are published with it, so this names no directory of the machine.
    """
    told = cached_name(name) or Path(name).name
    return named_identity(name).replace(name, told, 1) if Path(name).expanduser().exists() else name


def cosine(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Compute the cosine similarity of two vectors (dim,), in [-1, 1]; 0 if either is zero."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / norm if norm else 0.0
