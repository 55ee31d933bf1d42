"""What differentiating an MLP needs, computed again from its input: GRADIENT_CHECKPOINTING=mlp.

Of what a layer keeps for its backward pass about half is the MLP's: its normed input, gate and up, three times as wide
as the stream, and their product. Here autograd keeps a note in the place of each. When the backward pass comes to the
layer they are computed again: two of the MLP's three products, and nothing of attention. (Checkpointing whole layers
computes all of them again.) The same operations compute them, with the same random numbers, so that losses and
gradients are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Compute = Callable[[], torch.Tensor]

#: Attribute of an MLP that is to be computed again.
_MARK = "computed_again"


def use(talker: Any) -> None:
    """Let the MLPs of a talker's own layers be computed again, where `job.train.kernels` computes them.

    The sub-talker's are not: it is differentiated chunk by chunk (`job.train.chunked`).
    """
    for layer in talker.model.layers:
        setattr(layer.mlp, _MARK, True)


def wanted(mlp: nn.Module) -> bool:
    """Whether what this call computes is to be computed again."""
    return getattr(mlp, _MARK, False) and torch.is_grad_enabled()


def mlp(
    module: Any, x: torch.Tensor, normed: Compute | None, gated: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """`down_proj(gated(gate_proj(x), up_proj(x)))`, with notes kept in the place of all but its output.

    Args:
        module: the MLP.
        x: (..., D), a norm's output.
        normed: computes `x` again; None to keep it.
        gated: the product of gate and up (..., I).
    """
    notes = _Notes()
    conditions = _conditions(module, x.device)
    again = notes.write(x, normed) if normed else lambda: x
    with torch.autograd.graph.saved_tensors_hooks(notes.pack, _unpacked):
        parts = []
        for product in (module.gate_proj, module.up_proj):
            under = conditions()
            part = product(x)
            parts.append((part, notes.write(part, _computing(product, again, under))))
        (gate, gate_again), (up, up_again) = parts
        product = gated(gate, up)
        notes.write(product, lambda: gated(gate_again(), up_again()))
        del gate, up, parts, part
        found: torch.Tensor = module.down_proj(product)
    notes.close()
    return found


def _computing(product: nn.Module, again: Compute, under: Callable[[], Any]) -> Compute:
    def compute() -> torch.Tensor:
        x = again()
        with under():
            return product(x)  # type: ignore[no-any-return]

    return compute


class _Note:
    """A tensor that can be computed again. Once it is, it is held while autograd will still ask for it."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._value: torch.Tensor | None = None
        self.asked_for = 0

    def read(self) -> torch.Tensor:
        value = self._value
        if value is None:
            with torch.no_grad():
                value = self._compute()
        self._value = value if self.asked_for > 0 else None
        return value


class _Notes:
    """The tensors of a call that are not kept, by their storages, which are held until the call ends."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[torch.Tensor, _Note]] = {}

    def write(self, tensor: torch.Tensor, compute: Compute) -> Compute:
        """Note how a tensor is computed; returns what does so."""
        note = _Note(compute)
        self._of[tensor.untyped_storage()._cdata] = tensor, note
        return note.read

    def close(self) -> None:
        """Let go of the tensors."""
        self._of.clear()

    def pack(self, tensor: torch.Tensor) -> Any:
        """What autograd keeps of a tensor: a note and where in its storage the tensor lies, or the tensor."""
        found = self._of.get(tensor.untyped_storage()._cdata)
        if found is None:
            return tensor
        found[1].asked_for += 1
        return found[1], tensor.shape, tensor.stride(), tensor.storage_offset()


def _unpacked(kept: Any) -> torch.Tensor:
    if isinstance(kept, torch.Tensor):
        return kept
    note, *where = kept
    note.asked_for -= 1
    return note.read().as_strided(*where)  # type: ignore[no-any-return]


def _conditions(module: nn.Module, device: torch.device) -> Callable[[], Callable[[], Any]]:
    """What takes down the conditions of now, random numbers included where some are drawn, for going back to them."""
    kind, lowered = torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
    draws = any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in module.modules())
    devices = [device] if device.type == "cuda" else []

    def take_down() -> Callable[[], Any]:
        states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)] if draws else []

        @contextmanager
        def under() -> Iterator[None]:
            with torch.autocast(device.type, kind, enabled=lowered), torch.random.fork_rng(devices, enabled=draws):
                if states:
                    torch.set_rng_state(states[0])
                for state in states[1:]:
                    torch.cuda.set_rng_state(state, device)
                yield

        return under

    return take_down
