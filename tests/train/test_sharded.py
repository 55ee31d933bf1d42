"""DISTRIBUTED=fsdp: each process has a piece of every weight, and the gradients are those of the whole model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from job.config import settings as variables
from job.core.stopping import StopRequest
from job.demo.base import build
from job.model.loading import load_model
from job.processes.ranks import ALONE, Ranks
from job.train import adapt, progressive, setup
from job.train.schedule import Planned
from job.train.spread import Spread, whole
from job.train.step import Stepper
from tests.support import memory
from tests.support.forked import in_two
from tests.train.trained import objective_of

#: Of what a phase trains, nothing has been trained before but in the last one.
PHASES = progressive.parse("text_projection:1|sub_talker:1|talker:1|all")


class Copies(TorchDispatchMode):
    """Notes the shapes of what is copied to bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") == torch.bfloat16:
            self.shapes.add(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def passes(base: Any, ranks: Ranks, precision: str) -> tuple[list[dict[str, torch.Tensor]], set[tuple[int, ...]]]:
    """Gradients in each phase, and which shapes that only matrices of layers have were copied to bf16.

    Two processes have a batch each, one has both.
    """
    settings = variables.load({"PRESET": "demo", "DEVICE": "cpu", "TRAIN_MODE": "full"})
    model: Any = load_model(base, torch.device("cpu"), torch.float32).model
    layers = {tuple(p.shape) for p in model.talker.model.layers.parameters() if p.dim() > 1}
    layers -= {tuple(p.shape) for p in model.talker.code_predictor.parameters()}
    groups = adapt.adapt(model, settings)
    objective: Any = objective_of(model)
    spread = Spread(ranks, sharded=True)
    training: Any = SimpleNamespace(model=model, groups=groups)
    setup.spread_over(training, objective, spread, precision)
    parameters = [pair for group in groups for pair in group.parameters]
    batches = [memory.batch_of(model.config, lengths)[0].turn(1.0) for lengths in ([30, 7], [12, 21])]
    found, copies = [], Copies()
    for epoch in range(4):
        progressive.activate(PHASES, epoch, groups)
        for _, batch, _ in spread.mine(batches):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"), copies:
                losses = objective.train()(batch)
            ((losses.talker + 0.3 * losses.sub_talker) * spread.loss_scale).backward()
        assert all(p.grad.dtype == torch.float32 for _, p in parameters if p.grad is not None)
        found.append({name: whole(p.grad) for name, p in parameters if p.grad is not None})
        objective.zero_grad()
    return found, copies.shapes & layers


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Whose talker's matrices are of other shapes than the sub-talker's."""
    sizes = {"hidden_size": 48, "heads": 4, "key_value_heads": 2, "head_dim": 12, "sub_talker_hidden_size": 32}
    return build(tmp_path_factory.mktemp("base"), **sizes, sub_talker_layers=1, codebooks=4)


@pytest.fixture(scope="module", params=["bf16", "no"])
def taken(request, base, tmp_path_factory):
    """Precision, and what `passes` gives in one process and in the two."""
    two = in_two(lambda ranks: passes(base, ranks, request.param), tmp_path_factory.mktemp("two"))
    return request.param, passes(base, ALONE, request.param), *two


@pytest.mark.slow
def test_each_phase_trains_what_it_names_as_the_whole_model_does(taken):
    """Also what was frozen in the passes before; sums are fp32, whatever is computed in."""
    precision, (expected, _), (found, _), _ = taken
    for phase, gradients in zip(expected, found, strict=True):
        assert phase.keys() == gradients.keys()
        for name, gradient in phase.items():
            off = (gradients[name] - gradient).norm() / gradient.norm()
            assert off < (0.05 if precision == "bf16" else 1e-5), name


def test_autocast_copies_no_matrix_of_a_layer(taken):
    """A copy would be kept whole until the backward pass, by each process."""
    precision, (_, alone), (_, sharded), _ = taken
    assert bool(alone) == (precision == "bf16")
    assert not sharded


def test_a_batch_in_which_no_frame_has_its_turn_gives_zeros(base):
    """Not nothing: the others add gradients of the sub-talker up in that pass, and would wait."""
    model: Any = load_model(base, torch.device("cpu"), torch.float32).model
    batch = memory.batch_of(model.config, [3])[0].turn(1e-9, visit=5)
    rows = SimpleNamespace(batch=lambda *_: batch)
    training: Any = SimpleNamespace(train_rows=rows, codebooks=4, parameters=[])
    accelerator = SimpleNamespace(device=torch.device("cpu"))
    settings = variables.load({"PRESET": "demo", "DEVICE": "cpu"})
    stepper = Stepper(settings, accelerator, None, training, Spread(Ranks(0, 2), sharded=True), StopRequest())
    ((_, built),) = stepper.build(Planned(1, 0, [[0], [0]]))
    assert len(batch.chosen) == 0
    losses = objective_of(model)(built)
    (losses.talker + losses.sub_talker).backward()
    assert float(losses.sub_talker) == 0
    assert all(head.weight.grad.abs().sum() == 0 for head in model.talker.code_predictor.lm_head)
