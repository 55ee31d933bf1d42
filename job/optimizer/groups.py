"""Trained parameters that share a learning rate, and which of them weight decay applies to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

Named = tuple[str, nn.Parameter]


@dataclass
class Group:
    """Parameters that share a learning rate. `parameters` are (name, tensor) pairs."""

    name: str
    rate: float
    parameters: list[Named]

    @property
    def size(self) -> int:
        """Number of trained values."""
        return sum(p.numel() for _, p in self.parameters)


def decayed_and_not(group: Group) -> tuple[list[Named], list[Named]]:
    """Split off matrices from norms, biases and embeddings (decay would shrink embedding rows the data never uses)."""
    decayed = [(name, p) for name, p in group.parameters if p.ndim > 1 and "embedding" not in name]
    names = {name for name, _ in decayed}
    return decayed, [(name, p) for name, p in group.parameters if name not in names]
