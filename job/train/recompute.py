"""What differentiating a layer needs, computed again from less: GRADIENT_CHECKPOINTING=selective.

Half of what a layer keeps for its backward pass is the MLP's: gate and up, three times as wide as the stream, and their
product. Most of the rest follows from something else that is kept, by operations that are cheap: a norm's output, and
queries, keys and values as attention takes them, turned and repeated for each head. Here autograd keeps a note in the
place of each of these. When the backward pass comes to the layer they are computed again: two of its seven products,
and nothing of attention itself. Checkpointing whole layers computes all of them again.
The same operations compute them, with the same random numbers, so that losses and gradients are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

Compute = Callable[[], torch.Tensor]

#: Attribute of a module that is computed again in part.
_MARK = "computed_again"


def use(talker: Any) -> None:
    """Let the layers of talker and sub-talker be computed again in part, where `job.train.kernels` computes them."""
    for layer in (*talker.model.layers, *talker.code_predictor.model.layers):
        setattr(layer.mlp, _MARK, True)
        setattr(layer.self_attn, _MARK, True)


class _Note:
    """A tensor that can be computed again. Once it is, it is held while autograd will still ask for it."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._value: torch.Tensor | None = None
        self.asked_for = 0

    def read(self) -> torch.Tensor:
        value = self._compute() if self._value is None else self._value
        self._value = value if self.asked_for > 0 else None
        return value


class Notes:
    """Which tensors of a module's call need not be kept, by their storages, which are held until the call ends."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._of: dict[int, tuple[torch.Tensor, _Note]] = {}
        self._device = device
        self._autocast = torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
        self._draws = any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in module.modules())

    def write(self, tensor: torch.Tensor, compute: Compute | None) -> None:
        """Note how a tensor is computed, without random numbers; None if it is not known."""
        if compute is not None:
            self._of[tensor.untyped_storage()._cdata] = tensor, _Note(self._as_now(compute, nullcontext))

    def product(self, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """`module(x)`, noted; it may have dropout."""
        again, draws = self.again(x), self._drawing()
        found: torch.Tensor = module(x)
        self._of[found.untyped_storage()._cdata] = found, _Note(self._as_now(lambda: module(again()), draws))
        return found

    def again(self, tensor: torch.Tensor) -> Compute:
        """What gives a tensor: by its note, or the tensor itself."""
        found = self._of.get(tensor.untyped_storage()._cdata)
        if found is None:
            kept = tensor.detach()
            return lambda: kept
        note, where = found[1], (tensor.shape, tensor.stride(), tensor.storage_offset())
        return lambda: note.read().as_strided(*where)

    def pack(self, tensor: torch.Tensor) -> Any:
        """What autograd keeps of a tensor: a note and where in its storage the tensor lies, or the tensor."""
        found = self._of.get(tensor.untyped_storage()._cdata)
        if found is None:
            return tensor
        found[1].asked_for += 1
        return found[1], tensor.shape, tensor.stride(), tensor.storage_offset()

    def close(self) -> None:
        """Let go of the tensors."""
        self._of.clear()

    def _as_now(self, compute: Compute, draws: Callable[[], AbstractContextManager[None]]) -> Compute:
        kind, enabled = self._autocast

        def computed() -> torch.Tensor:
            with torch.no_grad(), torch.autocast(self._device.type, kind, enabled=enabled), draws():
                return compute()

        return computed

    def _drawing(self) -> Callable[[], AbstractContextManager[None]]:
        """What goes back to the random numbers of now, where some are drawn."""
        if not self._draws:
            return nullcontext
        devices = [self._device] if self._device.type == "cuda" else []
        here, there = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in devices]

        @contextmanager
        def back() -> Iterator[None]:
            with torch.random.fork_rng(devices):
                torch.set_rng_state(here)
                for device, state in zip(devices, there, strict=True):
                    torch.cuda.set_rng_state(state, device)
                yield

        return back


#: Those of the call that is being computed.
_open: list[Notes] = []


@contextmanager
def noting(module: nn.Module, device: torch.device) -> Iterator[Notes | None]:
    """Notes for a call of `module`; None where all is to be kept."""
    if not hasattr(module, _MARK) or not torch.is_grad_enabled():
        yield None
        return
    notes = Notes(module, device)
    _open.append(notes)
    try:
        with torch.autograd.graph.saved_tensors_hooks(notes.pack, _unpacked):
            yield notes
    finally:
        _open.pop()
        notes.close()


def note(tensor: torch.Tensor, known: Callable[[torch.Tensor], Compute | None]) -> None:
    """Note a tensor of the call that is being computed, if it is `known` how it is computed."""
    if _open:
        _open[-1].write(tensor, known(tensor))


def derived(function: Callable[[torch.Tensor], torch.Tensor], source: torch.Tensor) -> torch.Tensor:
    """`function(source)`, which is cheap and draws nothing: noted, if the call it belongs to is."""
    if not _open:
        return function(source)
    again = _open[-1].again(source)
    found = function(source)
    if found.untyped_storage()._cdata != source.untyped_storage()._cdata:
        _open[-1].write(found, lambda: function(again()))
    return found


def _unpacked(kept: Any) -> torch.Tensor:
    if isinstance(kept, torch.Tensor):
        return kept
    note, *where = kept
    note.asked_for -= 1
    return note.read().as_strided(*where)  # type: ignore[no-any-return]
