"""A step that clips and skips within the optimizer's own pass does what clipping and skipping before it do."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from job.config.settings import Settings
from job.loss.batch import collate
from job.optimizer.groups import Group
from job.optimizer.optimizers import optimizer_of
from job.train.readings import Reading
from job.train.update import Update
from tests.train.test_contract import spread
from tests.train.test_packing import three
from tests.train.trained import objective_of

SHAPES = [(7, 5), (3,), (2, 4, 3), (1,)]
OPTIMIZERS = ["adamw_fused", "adamw", "adamw_8bit"]
FINITE = torch.tensor([4.0, 5.0], dtype=torch.float64)


def parameters_of(seed, scale):
    """Weights with gradients but the last; gradients that are not contiguous among them."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    give_gradients(made, seed, scale)
    return made


def give_gradients(parameters, seed, scale):
    generator = torch.Generator().manual_seed(1000 + seed)
    for p in parameters[:-1]:
        p.grad = scale * torch.randn(p.shape[::-1], generator=generator).permute(*reversed(range(p.ndim)))


def optimizer_over(parameters, kind, weights="fp32"):
    named = [(f"p{n}", p) for n, p in enumerate(parameters)]
    return optimizer_of(Settings(optimizer=kind, master_weights=weights), [Group("all", rate=1e-2, parameters=named)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPTIMIZERS)
@given(seed=st.integers(0, 100), scale=st.sampled_from([1e-4, 0.3, 1e4]), bound=st.sampled_from([0.5, 1.0, math.inf]))
def test_weights_move_as_with_gradients_clipped_before(kind, seed, scale, bound):
    ours, theirs = parameters_of(seed, scale), parameters_of(seed, scale)
    update, plain = Update(optimizer_over(ours, kind), bound), optimizer_over(theirs, kind)
    for step, factor in enumerate((1.0, 1e-6, 1.0)):  # large, too small to be clipped, large again
        for parameters in (ours, theirs):
            give_gradients(parameters, seed + step, scale * factor)
        norm = update(ours, FINITE)
        expected = torch.nn.utils.clip_grad_norm_(theirs, bound)
        plain.step()
        assert float(norm) == pytest.approx(float(expected), rel=1e-5)
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_a_step_that_is_not_finite_changes_nothing(kind, bad, where):
    """Neither weights, nor moments, nor how many steps the optimizer counts."""
    parameters = parameters_of(0, 1.0)
    optimizer = optimizer_over(parameters, kind)
    update = Update(optimizer, 1.0)
    update(parameters, FINITE)
    before = copy.deepcopy(([p.detach() for p in parameters], optimizer.state_dict()["state"]))
    give_gradients(parameters, 1, 1.0)
    losses = FINITE.clone()
    if where == "gradient":
        parameters[1].grad[0] = bad
    else:
        losses[1] = bad
    norm = update(parameters, losses)
    assert math.isfinite(float(norm)) == (where == "loss")
    torch.testing.assert_close(
        ([p.detach() for p in parameters], optimizer.state_dict()["state"]), before, rtol=0, atol=0
    )
    give_gradients(parameters, 2, 1.0)
    update(parameters, FINITE)
    assert not torch.equal(parameters[0], before[0][0])  # the next one is taken


@pytest.mark.parametrize("weights", ["fp32", "bf16_with_fp32"])
def test_no_number_is_asked_of_the_device(weights):
    """The host would wait for it, and the device then for its next work; nor with state that was on the CPU."""
    kind = torch.float32 if weights == "fp32" else torch.bfloat16
    with FakeTensorMode(allow_non_fake_inputs=True):
        parameters = [torch.nn.Parameter(torch.empty(3, 4, dtype=kind, device="cuda")) for _ in range(2)]
        for p in parameters:
            p.grad = torch.empty_like(p)
        losses = torch.empty(2, device="cuda")
        first, second = (optimizer_over(parameters, "adamw_fused", weights) for _ in range(2))
        assert Update(first, 1.0)(parameters, losses).shape == ()
        state = first.state_dict()
        kept = {n: {k: v.to("cpu") for k, v in one.items()} for n, one in state["state"].items()}
        second.load_state_dict({**state, "state": kept})
        assert Update(second, 1.0)(parameters, losses).device.type == "cuda"
        assert {v.device.type for one in second.state.values() for v in one.values()} == {"cuda"}
        assert {v.dtype for one in second.state.values() for v in one.values()} == {torch.float32}
        with pytest.raises(DataDependentOutputException):  # what asking would do
            Update(optimizer_over(parameters, "adamw", weights), 1.0)(parameters, losses)


def test_nothing_trained_has_no_norm():
    parameters = parameters_of(0, 1.0)[-1:]
    assert float(Update(torch.optim.AdamW(parameters, fused=True), 1.0)(parameters, FINITE)) == 0.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="watches a GPU being waited for")
def test_the_gpu_is_never_waited_for(tiny_base):
    """From a batch on the host to the update, with packed attention in bf16: torch refuses what would wait."""
    tts = spread(tiny_base)
    batch = collate(*three(tts), packed=True).pin_memory()
    objective = objective_of(tts.model.cuda()).train()
    parameters = [p for p in tts.model.parameters() if p.requires_grad]
    update = Update(optimizer_over(parameters, "adamw_fused"), 1.0)
    for mode in ("default", "error"):  # the first time, attention is compared with another way to compute it
        torch.cuda.set_sync_debug_mode(mode)
        try:
            with torch.autocast("cuda", torch.bfloat16):
                losses = objective(batch.to("cuda"))
            loss = losses.talker / losses.talker_terms + losses.sub_talker / losses.sub_talker_terms
            loss.backward()
            reading = Reading(update(parameters, loss.detach()).reshape(1))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert math.isfinite(reading.numbers()[0])
