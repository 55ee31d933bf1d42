"""AdamW over fp32 copies of weights that the model keeps in bf16 (MASTER_WEIGHTS=bf16_with_fp32).

With fp32 weights under autocast every product's weight is lowered in each step, and its gradient raised again: a fifth
of the kernels of a step (benchmarks/traffic.py), and the residual stream is in fp32. Here the model computes with the
bf16 weights it holds, and only the optimizer knows the fp32 ones, which it rounds to the nearest after each step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.optim.adamw import adamw

#: Most values updated at a time, whose gradients are copied to fp32: 0.3 GB.
AT_ONCE = 1 << 26


class MasterAdamW(torch.optim.AdamW):
    """torch's AdamW for bf16 parameters, whose fp32 copies are part of its state (`master`).

    As in torch's own, `grad_scale` and `found_inf` are honoured if the update is fused.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # there is no loss to return
        """Update every parameter that has a gradient."""
        assert closure is None, "the loop has the gradients already"
        for group in self.param_groups:
            for portion in _portions([p for p in group["params"] if p.grad is not None]):
                self._update(group, portion)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state without torch's conversion to the weights' dtype."""
        load_as_saved(self, state_dict, steps_on_device=bool(self.defaults["fused"]))

    def _update(self, group: dict[str, Any], parameters: list[torch.nn.Parameter]) -> None:
        states = [self.state[p] or self._begin(p) for p in parameters]
        masters = [state["master"] for state in states]
        gradients = [torch.empty_like(master) for master in masters]
        torch._foreach_copy_(gradients, [cast(torch.Tensor, p.grad) for p in parameters])
        adamw(
            masters, gradients,
            [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states], [],
            [state["step"] for state in states],
            fused=group["fused"], amsgrad=False, maximize=False, beta1=group["betas"][0], beta2=group["betas"][1],
            lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
            grad_scale=getattr(self, "grad_scale", None), found_inf=getattr(self, "found_inf", None),
        )  # fmt: skip
        torch._foreach_copy_([p.detach() for p in parameters], masters)

    def _begin(self, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        """Copy the weights, and initialise zero moments."""
        state: dict[str, torch.Tensor] = self.state[parameter]
        state["step"] = torch.zeros((), device=parameter.device if self.defaults["fused"] else "cpu")
        state["master"] = parameter.detach().float()
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros_like(state["master"])
        return state


def _portions(parameters: list[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """Divide parameters into lists of at most `AT_ONCE` values; a larger one is a list of its own."""
    portion: list[torch.nn.Parameter] = []
    count = 0
    for parameter in parameters:
        if portion and count + parameter.numel() > AT_ONCE:
            yield portion
            portion, count = [], 0
        portion.append(parameter)
        count += parameter.numel()
    if portion:
        yield portion


def load_as_saved(
    optimizer: torch.optim.Optimizer, state_dict: dict[str, Any], *, steps_on_device: bool = False
) -> None:
    """Load an optimizer's state in the dtypes it was saved in, where torch would convert it to the weights' dtype."""
    torch.optim.Optimizer.load_state_dict(optimizer, {**state_dict, "state": {}})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, saved in state_dict["state"].items():
        device = parameters[index].device
        optimizer.state[parameters[index]] = {
            name: value.to("cpu" if name == "step" and not steps_on_device else device) for name, value in saved.items()
        }
