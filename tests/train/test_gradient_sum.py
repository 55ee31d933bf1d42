"""What two processes add up is what one has, whoever has a part, a gradient or the memory; and nobody waits in vain."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd

from job.config import settings as variables
from job.core.stopping import StopRequest
from job.fast import compiled
from job.loss.objective import Losses
from job.processes.ranks import ALONE, Ranks
from job.train import spread
from job.train.schedule import Planned
from job.train.step import Stepper
from tests.support.forked import in_two

#: step -> parts of rows, and the process whose memory runs out in the backward pass of more than one row.
STEPS: dict[str, tuple[list[list[int]], int | None]] = {
    "first": ([[1, 2], [3, 4]], None),
    "an uneven number of parts": ([[0], [1, 2], [3, 4]], None),
    "a process without a part": ([[1, 2]], None),
    "a gradient in one process only": ([[1, 2], [0, 3]], None),
    "the first one short": ([[1, 2], [3, 4]], 0),
    "after that": ([[1, 2], [3, 5]], None),
    "the second one short, in its last part": ([[1], [2], [4], [5, 6, 7]], 1),
    "at the end": ([[0, 2], [5, 6]], None),
}


class Full(torch.autograd.Function):
    """Nothing, but for running out of memory in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, model: Tiny) -> torch.Tensor:
        ctx.model, ctx.rows = model, len(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        ctx.model.on_its_way.append(ctx.model.sent())
        if ctx.model.short and ctx.rows > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradients[0], None


class Tiny(nn.Module):
    """Layers, one that only row 0 goes through, a parameter that nothing goes through, and one in bf16."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.seldom = nn.Linear(8, 8)
        self.never = nn.Parameter(torch.ones(8))
        self.low = nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
        self.short = False
        self.on_its_way: list[int] = []
        self.sent = lambda: 0

    def forward(self, batch: Any) -> Losses:
        x = batch.x * self.low
        for number, layer in enumerate(self.layers):
            x = layer(x).tanh()
            if number == 1:
                x = Full.apply(x, self)
        talker = x.square().sum()
        if 0 in batch.rows:
            talker = talker + self.seldom(x[:1]).sum()
        return Losses(talker, 1, x.sum(), 1)


def rows_of() -> Any:
    def batch(rows: list[int], epoch: int, fraction: float) -> Any:
        x = torch.stack([torch.linspace(-1, 1, 8) * (row + 1) for row in rows])
        made = SimpleNamespace(rows=rows, x=x)
        made.to = lambda device: made
        return made

    return SimpleNamespace(frames=np.full(8, 2), batch=batch, positions=lambda row, epoch: 2)


def take(ranks: Ranks) -> dict[str, Any]:
    """step -> (gradients by name, losses, messages on their way in the middle of the backward pass, pieces)."""
    model = Tiny()
    training: Any = SimpleNamespace(train_rows=rows_of(), codebooks=2, parameters=list(model.named_parameters()))
    accelerator = SimpleNamespace(device=torch.device("cpu"), autocast=nullcontext, backward=torch.Tensor.backward)
    settings = variables.load({"TRAIN_JSONL": "x.jsonl", "TRACKERS": "", "DEVICE": "cpu"})
    stepper = Stepper(settings, accelerator, model, training, spread.Spread(ranks), StopRequest())
    model.sent = lambda: len(stepper._sum._sent)
    found = {}
    for number, (name, (parts, short)) in enumerate(STEPS.items()):
        planned = Planned(number, 0, parts)
        model.short, model.on_its_way = short == ranks.rank and ranks.world > 1, []
        sums, _ = stepper.take(planned, stepper.build(planned))
        gradients = {n: None if p.grad is None else p.grad.tolist() for n, p in model.named_parameters()}
        types = {str(p.grad.dtype) for p in model.parameters() if p.grad is not None}
        found[name] = gradients, sums.tolist(), model.on_its_way, stepper.division.pieces, types
        model.zero_grad()
    return found


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """What one process finds, and what the first and the second of two do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spread, "MESSAGE_BYTES", 100)  # a weight is a message, biases go together
        alone = take(ALONE)
        two = in_two(take, tmp_path_factory.mktemp("two"))
    return alone, two[0], two[1]


@pytest.mark.parametrize("step", STEPS)
def test_two_processes_have_the_gradients_of_one(taken, step):
    """In both, to the last bits; none where there is none; and the same losses."""
    alone, *two = (one[step] for one in taken)
    for found in two:
        assert found[1] == pytest.approx(alone[1])
        for name, gradient in alone[0].items():
            if gradient is None:
                assert found[0][name] is None
            else:
                close = {"rtol": 0.02, "atol": 0.05} if name == "low" else {"rtol": 1e-5, "atol": 1e-5}
                torch.testing.assert_close(torch.tensor(found[0][name]), torch.tensor(gradient), **close)
    assert two[0][0] == two[1][0]
    assert alone[0]["never"] is None and alone[4] == two[0][4] == {"torch.float32", "torch.bfloat16"}


def test_messages_leave_before_the_backward_pass_ends(taken):
    """From the second step on, when the order is known; in the last part alone, and before memory runs out."""
    _, first, second = taken
    assert first["an uneven number of parts"][2] == [0, 2] and second["an uneven number of parts"][2] == [2]
    assert second["a process without a part"][2] == []
    assert first["the first one short"][2][0] == 2
    assert second["the second one short, in its last part"][2][-1] > 0


def test_all_begin_again_when_one_is_short(taken):
    """In as many pieces, both of them, and once only."""
    for found in taken[1:]:
        assert [step[3] for step in found.values()] == [1, 1, 1, 1, 2, 2, 3, 3]


def without_backward(compiles: Callable[..., Any], function: Any, **named: Any) -> Any:
    """What torch.compile (`compiles`) makes of a function where code for its backward pass cannot be made."""

    def backward(graph: Any, inputs: Any) -> Any:
        raise ValueError("no registers left\nand more")

    named.pop("options", None)
    backend = aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph.forward), bw_compiler=backward)
    return compiles(function, backend=backend, **named)


def uncompiled(ranks: Ranks) -> tuple[dict[str, Any], bool, str]:
    """Gradients of a step in which the second process has compiled code that cannot be differentiated; whether it is
    still used afterwards, and what this process said."""
    model, code = Tiny(), compiled.Compiled()
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("job.train.step.warn", lambda stage, message: said.append(message))
        patch.setattr(torch, "compile", partial(without_backward, torch.compile))
        for layer in model.layers[1:3]:
            stock = type(layer).forward
            vars(layer)[compiled._MARK] = code
            if ranks.rank == 1:
                layer.forward = MethodType(compiled._forward(stock, code), layer)
        training: Any = SimpleNamespace(train_rows=rows_of(), codebooks=2, parameters=list(model.named_parameters()))
        accelerator = SimpleNamespace(device=torch.device("cpu"), autocast=nullcontext)
        settings = variables.load({"TRAIN_JSONL": "x.jsonl", "TRACKERS": "", "DEVICE": "cpu"})
        stepper = Stepper(settings, accelerator, model, training, spread.Spread(ranks), StopRequest())
        planned = Planned(1, 0, [[1, 2], [3, 4], [5, 6]])
        stepper.take(planned, stepper.build(planned))
    gradients = {n: None if p.grad is None else p.grad.tolist() for n, p in model.named_parameters()}
    return gradients, code.usable, "\n".join(said)


def test_all_go_on_uncompiled_when_the_backward_code_of_one_cannot_be_made(tmp_path):
    """The step is computed again by both, who agree on what was summed and on why; nobody waits."""
    expected, usable, silence = uncompiled(ALONE)
    assert usable and not silence
    for found, usable, said in in_two(uncompiled, tmp_path):
        assert not usable and said.endswith("with the same result: no registers left")
        for name, gradient in expected.items():
            if gradient is None:
                assert found[name] is None
            elif name != "low":
                torch.testing.assert_close(torch.tensor(found[name]), torch.tensor(gradient), rtol=1e-5, atol=1e-5)
