"""AdamW variants selected by OPTIMIZER and MASTER_WEIGHTS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.optim.adamw import adamw

from job.config.optimizer_choice import BLOCK, SMALLEST, in_bf16
from job.config.settings import Settings
from job.train import adapt
from job.train.compact import quantized, restored, rounded
from job.train.seeds import seed_of

#: Values converted to fp32 at a time, in whole blocks: few enough for a CPU's cache, enough to keep a GPU busy.
AT_ONCE = {"cuda": 1 << 22, "cpu": 1 << 16}
Named = tuple[str, torch.nn.Parameter]

_BETAS = (0.9, 0.95)
_MOMENTS = (("exp_avg", True), ("exp_avg_sq", False))


def optimizer_of(settings: Settings, groups: list[adapt.Group]) -> torch.optim.Optimizer:
    """Create AdamW over the groups; only matrices get weight decay."""
    parts = []
    for group in groups:
        for parameters, weight_decay in zip(decayed_and_not(group), (settings.weight_decay, 0.0), strict=True):
            if parameters:
                parts.append({"params": [p for _, p in parameters], "lr": group.rate, "weight_decay": weight_decay})
    eight_bit = settings.optimizer == "adamw_8bit"
    if eight_bit or in_bf16(settings):
        return CompactAdamW(parts, eight_bit=eight_bit, fused=settings.optimizer != "adamw", seed=settings.seed)
    return torch.optim.AdamW(parts, betas=_BETAS, fused=True if settings.optimizer == "adamw_fused" else None)


def decayed_and_not(group: adapt.Group) -> tuple[list[Named], list[Named]]:
    """Split off matrices from norms, biases and embeddings (decay would shrink embedding rows the data never uses)."""
    decayed = [(name, p) for name, p in group.parameters if p.ndim > 1 and "embedding" not in name]
    names = {name for name, _ in decayed}
    return decayed, [(name, p) for name, p in group.parameters if name not in names]


class CompactAdamW(torch.optim.Optimizer):
    """AdamW with optional 8-bit moments and optional bf16 weights without an fp32 copy.

    The arithmetic is torch's own, in fp32, one piece of a tensor at a time. bf16 weights are rounded stochastically: at
    fine-tuning learning rates an update is far below half a bf16 step, and rounding to nearest would always discard it.
    Randomness depends on `seed`, the parameter's index and its number of updates, so that a resumed run and all
    processes of a run round identically.
    """

    def __init__(self, groups: list[dict[str, Any]], *, eight_bit: bool, fused: bool, seed: int) -> None:
        super().__init__(groups, {"lr": 1e-3, "betas": _BETAS, "eps": 1e-8, "weight_decay": 0.0})
        self.eight_bit, self._fused, self._seed = eight_bit, fused, seed

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # there is no loss to return
        """Update every parameter that has a gradient."""
        assert closure is None, "the loop has the gradients already"
        parameters = ((group, p) for group in self.param_groups for p in group["params"])
        for place, (group, parameter) in enumerate(parameters):
            if parameter.grad is not None:
                self._update(group, parameter, place)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state without torch's conversion to the weights' dtype."""
        super().load_state_dict({**state_dict, "state": {}})
        parameters = [p for group in self.param_groups for p in group["params"]]
        for index, saved in state_dict["state"].items():
            device = parameters[index].device
            self.state[parameters[index]] = {
                name: value.to("cpu" if name == "step" else device) for name, value in saved.items()
            }

    def _update(self, group: dict[str, Any], parameter: torch.nn.Parameter, place: int) -> None:
        state = self.state[parameter] or self._begin(parameter)
        step = int(state["step"])
        state["step"] += 1
        weights, gradients = parameter.detach().view(-1), parameter.grad.reshape(-1)  # type: ignore[union-attr]
        device = weights.device
        generator = None
        if weights.dtype != torch.float32:
            generator = torch.Generator(device).manual_seed(seed_of(self._seed, place, step))
        for piece in _pieces(len(weights), AT_ONCE.get(device.type, AT_ONCE["cuda"])):
            weight = weights[piece].float()  # no copy if it is fp32 already
            first, second = (_moment(state, name, signed, piece) for name, signed in _MOMENTS)
            adamw(
                [weight], [gradients[piece].float()], [first], [second], [],
                [torch.full((), float(step), device=device if self._fused else "cpu")],
                fused=self._fused, foreach=False, amsgrad=False, maximize=False,
                beta1=group["betas"][0], beta2=group["betas"][1], eps=group["eps"],
                lr=group["lr"], weight_decay=group["weight_decay"],
            )  # fmt: skip
            for (name, signed), moment in zip(_MOMENTS, (first, second), strict=True):
                _keep(state, name, signed, piece, moment)
            if generator is not None:
                weights[piece] = rounded(weight, generator)

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


def _moment(state: dict[str, torch.Tensor], name: str, signed: bool, piece: slice) -> torch.Tensor:
    """Return a piece of a moment, (n,) fp32; a view of the state if that is fp32."""
    values, scales = state[name].view(-1)[piece], state.get(f"{name}_scale")
    return values if scales is None else restored(values, scales[_blocks(piece)], signed)


def _keep(state: dict[str, torch.Tensor], name: str, signed: bool, piece: slice, moment: torch.Tensor) -> None:
    """Store an updated piece from `_moment`, unless it is a view."""
    scales = state.get(f"{name}_scale")
    if scales is not None:
        state[name][piece], scales[_blocks(piece)] = quantized(moment, signed)


def _pieces(count: int, most: int) -> Iterator[slice]:
    return (slice(start, min(start + most, count)) for start in range(0, count, most))


def _blocks(piece: slice) -> slice:
    """Return the slice of scales that belong to a piece."""
    return slice(piece.start // BLOCK, -(-piece.stop // BLOCK))
