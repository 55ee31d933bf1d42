"""The states of all random number generators, as tensors that a checkpoint can hold."""

from __future__ import annotations

import random

import numpy as np
import torch


def current() -> dict[str, torch.Tensor]:
    """Return the states of torch's (also a GPU's that is used), NumPy's and Python's random number generators."""
    version, words, gauss = random.getstate()
    kind, keys, at, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_rest": torch.tensor(
            [version, -1.0 if gauss is None else gauss, gauss is not None], dtype=torch.float64
        ),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_rest": torch.tensor([at, has_gauss, cached], dtype=torch.float64),
    }
    assert kind == "MT19937", "the legacy generator of NumPy is always this one"
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore(states: dict[str, torch.Tensor]) -> None:
    """Set the generators to what `current` returned."""
    torch.set_rng_state(states["torch"])
    version, gauss, has = states["python_rest"].tolist()
    random.setstate((int(version), tuple(states["python"].tolist()), gauss if has else None))
    at, has_gauss, cached = states["numpy_rest"].tolist()
    np.random.set_state(("MT19937", states["numpy"].numpy().astype(np.uint32), int(at), int(has_gauss), cached))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
