"""The functions that replace the stock layers' norms, rotation and gating: the same values and gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from job.train import kernels, norms


@pytest.fixture
def talkers(stock_talker: Any) -> tuple[Any, Any]:
    """Stock, and the same computing by ours."""
    stock, ours = copy.deepcopy(stock_talker), copy.deepcopy(stock_talker)
    kernels.use(ours)
    return stock, ours


def run(decoder: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """States of a decoder and the gradient by its input, of a loss that weighs every value differently."""
    x = x.clone().requires_grad_()
    states = decoder(inputs_embeds=x, use_cache=False).last_hidden_state
    weights = torch.linspace(-1, 1, states.numel()).view(states.shape)
    (states.float() * weights).sum().backward()
    assert x.grad is not None
    return states.detach(), x.grad


def decoders(talker: Any) -> list[Any]:
    return [talker.model, talker.code_predictor.model]


def test_states_and_all_gradients_are_the_stock_layers(talkers: tuple[Any, Any]):
    for stock, ours in zip(*map(decoders, talkers), strict=True):
        x = torch.randn(3, 9, stock.config.hidden_size, generator=torch.Generator().manual_seed(1))
        for one, other in zip(run(stock, x), run(ours, x), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
        compared = 0
        for (name, one), (_, other) in zip(stock.named_parameters(), ours.named_parameters(), strict=True):
            if one.grad is not None:
                assert (other.grad - one.grad).norm() <= 1e-5 * one.grad.norm() + 1e-7, name
                compared += 1
        assert compared == 11 * len(stock.layers) + 1


def test_in_half_precision_they_are_as_close_to_fp32_as_the_stock_layers(talkers: tuple[Any, Any]):
    """Under autocast, which is how training runs on a GPU: same types, and no error of its own."""
    stock, ours = (talker.model for talker in talkers)
    x = torch.randn(2, 40, stock.config.hidden_size, generator=torch.Generator().manual_seed(2))
    exact = run(copy.deepcopy(stock), x)
    with torch.autocast("cpu", torch.bfloat16):
        theirs, mine = run(stock, x), run(ours, x)
    for fp32, one, other in zip(exact, theirs, mine, strict=True):
        assert other.dtype == one.dtype
        assert (other - fp32).norm() <= 1.3 * (one - fp32).norm()


def test_derivatives_are_right():
    """Against finite differences."""
    torch.manual_seed(0)
    x, up = (torch.randn(3, 2, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(8, dtype=torch.float64, requires_grad=True)
    cos, sin = torch.randn(2, 3, 1, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(kernels._Gated.apply, (x, up))
    assert torch.autograd.gradcheck(lambda t: kernels._Rotation.apply(t, cos, sin, t.dtype), (x,))
    assert torch.autograd.gradcheck(lambda t, w: norms.RMSNorm.apply(t, w, 1e-6, t.dtype), (x, weight))


def kept(decoder: Any) -> int:
    """Bytes that autograd holds on to after a forward pass, parameters not counted."""
    own = {p.untyped_storage().data_ptr() for p in decoder.parameters()}
    held: dict[int, tuple[int, torch.Tensor]] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes(), tensor  # kept, so that no other gets its address
        return tensor

    x = torch.randn(2, 50, decoder.config.hidden_size, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        states = decoder(inputs_embeds=x, use_cache=False).last_hidden_state
    del states
    return sum(size for size, _ in held.values())


def test_less_is_kept_for_the_backward_pass(talkers: tuple[Any, Any]):
    """That is what they are for."""
    stock, ours = (talker.model for talker in talkers)
    assert kept(ours) < 0.8 * kept(stock)


def test_a_cache_is_left_to_the_stock_code(talkers: tuple[Any, Any]):
    """The probe speaks with the very model that is being trained."""
    stock, ours = (talker.model.eval() for talker in talkers)
    x = torch.randn(1, 6, stock.config.hidden_size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for decoder in (stock, ours):
            past = decoder(inputs_embeds=x[:, :5], use_cache=True).past_key_values
            last = decoder(inputs_embeds=x[:, 5:], past_key_values=past, use_cache=True).last_hidden_state
            torch.testing.assert_close(last, stock(inputs_embeds=x, use_cache=False).last_hidden_state[:, 5:])


def test_modules_keep_their_names_and_adapters(talkers: tuple[Any, Any]):
    stock, ours = talkers
    assert list(stock.state_dict()) == list(ours.state_dict())
    assert [type(m) for m in stock.modules()] == [type(m) for m in ours.modules()]
    changed = {type(m).__name__ for m in ours.modules() if "forward" in vars(m)}
    assert changed == {
        "Qwen3TTSRMSNorm",
        "Qwen3TTSTalkerAttention",
        "Qwen3TTSAttention",
        "Qwen3TTSTalkerTextMLP",
    }
    layer = ours.model.layers[0]
    x = torch.randn(1, 4, stock.config.hidden_size)
    before = ours.model(inputs_embeds=x, use_cache=False).last_hidden_state
    layer.mlp.up_proj = nn.Sequential(layer.mlp.up_proj, nn.Linear(*[layer.mlp.up_proj.out_features] * 2))
    assert not torch.allclose(before, ours.model(inputs_embeds=x, use_cache=False).last_hidden_state)
