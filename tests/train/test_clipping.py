"""Clipping within the optimizer's pass gives what clipping before it gives."""

import math

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from job.settings import Settings
from job.train import adapt
from job.train.clipping import clip
from job.train.optimizers import optimizer_of

SHAPES = [(7, 5), (3,), (2, 4, 3), (1,)]


def parameters_of(seed, scale):
    """Weights with gradients but the last; a gradient that is not contiguous among them."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    for parameter in made[:-1]:
        parameter.grad = scale * torch.randn(parameter.shape[::-1], generator=generator).permute(
            *reversed(range(parameter.ndim))
        )
    return made


def steps(optimizer, parameters, bound, before):
    """Three steps, the gradients of the second one tiny; the norms before clipping."""
    norms = []
    for factor in (1.0, 1e-6, 1.0):
        kept = [None if p.grad is None else p.grad.clone() for p in parameters]
        for p, gradient in zip(parameters, kept, strict=True):
            p.grad = None if gradient is None else gradient * factor
        norms.append(before(optimizer, parameters, bound))
        optimizer.step()
        for p, gradient in zip(parameters, kept, strict=True):
            p.grad = gradient
    return norms


@pytest.mark.parametrize("optimizer", ["adamw_fused", "adamw", "adamw_8bit"])
@given(seed=st.integers(0, 100), scale=st.sampled_from([1e-4, 0.3, 1e4]), bound=st.sampled_from([0.5, 1.0, math.inf]))
def test_weights_move_as_with_gradients_clipped_before(optimizer, seed, scale, bound):
    def made():
        parameters = parameters_of(seed, scale)
        named = [(f"p{n}", p) for n, p in enumerate(parameters)]
        return parameters, optimizer_of(Settings(optimizer=optimizer), [adapt.Group("all", rate=1e-2, parameters=named)])

    ours, theirs = made(), made()
    norms = steps(ours[1], ours[0], bound, clip)
    expected = steps(
        theirs[1], theirs[0], bound, lambda _, p, bound: float(torch.nn.utils.clip_grad_norm_(p, bound))
    )
    assert norms == pytest.approx(expected, rel=1e-5)
    for mine, other in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_said(bad):
    """The guards decide by the norm whether the step is taken."""
    parameters = parameters_of(0, 1.0)
    parameters[1].grad[0] = bad
    assert not math.isfinite(clip(torch.optim.AdamW(parameters, fused=True), parameters, 1.0))


def test_accelerates_optimizer_is_looked_through():
    accelerator = Accelerator(cpu=True)
    parameters = parameters_of(0, 1e3)
    optimizer = accelerator.prepare(torch.optim.AdamW(parameters, fused=True))
    before = parameters[0].grad.clone()
    norm = clip(optimizer, parameters, 1.0, accelerator.clip_grad_norm_)
    assert torch.equal(parameters[0].grad, before)  # not written
    assert float(optimizer.optimizer.grad_scale) == pytest.approx(norm, rel=1e-5)


def test_nothing_trained_has_no_norm():
    parameters = parameters_of(0, 1.0)[-1:]
    assert clip(torch.optim.AdamW(parameters, fused=True), parameters, 1.0) == 0.0
