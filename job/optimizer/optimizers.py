"""AdamW variants selected by OPTIMIZER and MASTER_WEIGHTS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.optim.adamw import adamw

from job.config.optimizer_choice import BLOCK, COMPACT, EIGHT_BIT, MASTER, SMALLEST, kind_of
from job.config.settings import Settings
from job.core.seeds import seed_of
from job.optimizer.compact import quantized, restored, rounded
from job.optimizer.groups import Group, decayed_and_not
from job.optimizer.master_adamw import MasterAdamW, load_as_saved

#: Values updated at a time, in whole blocks: few enough for a CPU's cache, enough to keep a GPU busy.
AT_ONCE = {"cuda": 1 << 22, "cpu": 1 << 16}


class Piece(NamedTuple):
    """A span of a parameter's values, flattened; `place` is the parameter's index in the optimizer."""

    parameter: torch.nn.Parameter
    place: int
    span: slice

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return this span of a contiguous tensor of the parameter's size, as a view."""
        return tensor.view(-1)[self.span]


_BETAS = (0.9, 0.95)
_MOMENTS = (("exp_avg", True), ("exp_avg_sq", False))


def optimizer_of(settings: Settings, groups: list[Group]) -> torch.optim.Optimizer:
    """Create AdamW over the groups; only matrices get weight decay."""
    parts = []
    for group in groups:
        for parameters, weight_decay in zip(decayed_and_not(group), (settings.weight_decay, 0.0), strict=True):
            if parameters:
                parts.append({"params": [p for _, p in parameters], "lr": group.rate, "weight_decay": weight_decay})
    kind = kind_of(settings)
    if kind in (COMPACT, EIGHT_BIT):
        fused = settings.optimizer != "adamw"
        return CompactAdamW(parts, eight_bit=kind == EIGHT_BIT, fused=fused, seed=settings.seed)
    adamw_of = MasterAdamW if kind == MASTER else torch.optim.AdamW
    return adamw_of(parts, betas=_BETAS, fused=True if settings.optimizer == "adamw_fused" else None)


class CompactAdamW(torch.optim.Optimizer):
    """AdamW with optional 8-bit moments and optional bf16 weights without an fp32 copy.

    The arithmetic is torch's own, in fp32, over a piece of a large tensor or several small tensors at a time. bf16
    weights are rounded stochastically: at fine-tuning learning rates an update is far below half a bf16 step, and
    rounding to nearest would always discard it.

    Randomness depends on `seed`, a tensor's index and its number of updates, so that a resumed run and all
    processes of a run round identically.
    """

    def __init__(self, groups: list[dict[str, Any]], *, eight_bit: bool, fused: bool, seed: int) -> None:
        super().__init__(groups, {"lr": 1e-3, "betas": _BETAS, "eps": 1e-8, "weight_decay": 0.0})
        self.eight_bit, self._fused, self._seed = eight_bit, fused, seed

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # there is no loss to return
        """Update every parameter that has a gradient."""
        assert closure is None, "the loop has the gradients already"
        first = 0  # index of the group's first parameter
        for group in self.param_groups:
            for pieces in self._portions(group["params"], first):
                self._update(group, pieces)
            first += len(group["params"])
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.state[parameter]["step"] += 1

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state without torch's conversion to the weights' dtype."""
        load_as_saved(self, state_dict)

    def _portions(self, parameters: list[torch.nn.Parameter], first: int) -> Iterator[list[Piece]]:
        """Divide a group into what is updated at a time: a piece of a large tensor, or several small ones together.

        LoRA trains hundreds of small matrices, and an update takes some forty operations: one matrix at a time, they
        kept the host of an H200 as busy as a forward pass does (benchmarks/RESULTS.md).
        """
        together: dict[Any, list[Piece]] = {}
        joined: Counter[Any] = Counter()  # values of each
        for place, parameter in enumerate(parameters, first):
            if parameter.grad is None:
                continue
            state = self.state[parameter] or self._begin(parameter)
            count, most = parameter.numel(), AT_ONCE.get(parameter.device.type, AT_ONCE["cuda"])
            quantized = "exp_avg_scale" in state
            if count >= most or (quantized and count % BLOCK):  # blocks must not reach into the next tensor
                yield from ([Piece(parameter, place, slice(n, min(n + most, count)))] for n in range(0, count, most))
                continue
            # Only what is computed alike can be joined; parts that PROGRESSIVE_STAGES adds later have fewer steps.
            kind = (int(state["step"]), quantized, parameter.dtype, parameter.device)
            if joined[kind] + count > most:
                yield together.pop(kind)
                joined[kind] = 0
            together.setdefault(kind, []).append(Piece(parameter, place, slice(0, count)))
            joined[kind] += count
        yield from together.values()

    def _update(self, group: dict[str, Any], pieces: list[Piece]) -> None:
        parameter, place, span = pieces[0]
        step, device = int(self.state[parameter]["step"]), parameter.device
        weights = [piece.of(piece.parameter.detach()) for piece in pieces]
        weight = _joined(weights).float()  # a single fp32 piece is updated in place
        gradient = _joined([p.of(p.parameter.grad.contiguous()) for p in pieces]).float()  # type: ignore[union-attr]
        stored = [_Stored([self.state[p.parameter] for p in pieces], name, signed, pieces) for name, signed in _MOMENTS]
        first, second = (moment.restored() for moment in stored)
        adamw(
            [weight], [gradient], [first], [second], [],
            [torch.full((), float(step), device=device if self._fused else "cpu")],
            fused=self._fused, foreach=False, amsgrad=False, maximize=False,
            beta1=group["betas"][0], beta2=group["betas"][1], eps=group["eps"],
            lr=group["lr"], weight_decay=group["weight_decay"],
        )  # fmt: skip
        for moment, values in zip(stored, (first, second), strict=True):
            moment.keep(values)
        if parameter.dtype != torch.float32:
            seed = seed_of(self._seed, place, span.start, step)
            weight = rounded(weight, torch.Generator(device).manual_seed(seed))
        _keep(weights, weight)

    def _begin(self, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        """Initialise zero moments. `step` is on the CPU: reading it from a GPU would wait for all queued work."""
        count, device = parameter.numel(), parameter.device
        state: dict[str, torch.Tensor] = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.int64)
        for name, signed in _MOMENTS:
            if self.eight_bit and count >= SMALLEST:
                state[name], state[f"{name}_scale"] = quantized(torch.zeros(count, device=device), signed)
            else:
                state[name] = torch.zeros(parameter.shape, device=device)
        return state


class _Stored:
    """A moment of a few tensors, or of a piece of one, in an optimizer's state."""

    def __init__(self, states: list[dict[str, torch.Tensor]], name: str, signed: bool, pieces: list[Piece]) -> None:
        self.signed = signed
        self.values = [piece.of(state[name]) for state, piece in zip(states, pieces, strict=True)]
        self.scales = [
            state[f"{name}_scale"][piece.span.start // BLOCK : -(-piece.span.stop // BLOCK)]
            for state, piece in zip(states, pieces, strict=True)
            if f"{name}_scale" in state
        ]

    def restored(self) -> torch.Tensor:
        """Return it as (n,) fp32: the state itself if that is one fp32 piece."""
        values = _joined(self.values)
        return restored(values, _joined(self.scales), self.signed) if self.scales else values

    def keep(self, values: torch.Tensor) -> None:
        """Store (n,) fp32 values."""
        if self.scales:
            values, scales = quantized(values, self.signed)
            _keep(self.scales, scales)
        _keep(self.values, values)


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _keep(into: list[torch.Tensor], values: torch.Tensor) -> None:
    """Copy joined values back to where they came from, unless they were computed there."""
    if values is not into[0]:
        torch._foreach_copy_(into, torch.split(values, [len(tensor) for tensor in into]))
