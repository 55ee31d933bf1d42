"""Torch's own RMS norm in the place of the stock layers': the same values and gradients, in less memory."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn

from job.fast import attention, norms
from job.fast.changes import Changes


@pytest.fixture
def talkers(stock_talker: Any) -> tuple[Any, Any]:
    """Stock, and the same as training computes it."""
    stock, ours = copy.deepcopy(stock_talker), copy.deepcopy(stock_talker)
    with torch.no_grad():
        for weight in (p for name, p in ours.named_parameters() if "norm" in name):
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)))
    stock.load_state_dict(ours.state_dict())
    attention.use(ours, Changes())
    norms.use(ours, Changes())
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


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_in_half_precision_they_are_as_close_to_fp32_as_the_stock_layers(
    talkers: tuple[Any, Any], weights: torch.dtype
):
    """Under autocast, which is how training runs on a GPU, with weights in fp32 and in bf16."""
    for stock, ours in zip(*map(decoders, talkers), strict=True):
        for decoder in (stock, ours):
            decoder.to(weights)
        x = torch.randn(2, 40, stock.config.hidden_size, generator=torch.Generator().manual_seed(2)).to(weights)
        exact = run(copy.deepcopy(stock).float(), x.float())
        with torch.autocast("cpu", torch.bfloat16):
            theirs, mine = run(stock, x), run(ours, x)
        for fp32, one, other in zip(exact, theirs, mine, strict=True):
            assert other.dtype == one.dtype
            assert (other - fp32).norm() <= 1.3 * (one - fp32).norm()


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


def test_products_share_what_autocast_lowers(talkers: tuple[Any, Any]):
    """Norms that give fp32 leave queries, keys and values a copy each of what they read, gate and up as well."""
    ours = talkers[1].model
    other = copy.deepcopy(ours)
    for layer in other.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.forward = MethodType(norms._norm, norm)
    with torch.autocast("cpu", torch.bfloat16):
        assert kept(ours) < 0.95 * kept(other)


def test_a_cache_is_left_to_the_stock_code(talkers: tuple[Any, Any]):
    """The probe speaks with the very model that is being trained."""
    for stock, ours in zip(*(decoders(talker.eval()) for talker in talkers), strict=True):
        x = torch.randn(1, 6, stock.config.hidden_size, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            for decoder in (stock, ours):
                past = decoder(inputs_embeds=x[:, :5], use_cache=True).past_key_values
                last = decoder(inputs_embeds=x[:, 5:], past_key_values=past, use_cache=True).last_hidden_state
                whole = stock(inputs_embeds=x, use_cache=False).last_hidden_state
                torch.testing.assert_close(last, whole[:, 5:], rtol=1e-4, atol=1e-5)


def test_modules_keep_their_names_and_adapters(talkers: tuple[Any, Any]):
    stock, ours = talkers
    assert list(stock.state_dict()) == list(ours.state_dict())
    assert [type(m) for m in stock.modules()] == [type(m) for m in ours.modules()]
    assert {type(m).__name__ for m in ours.modules() if "forward" in vars(m)} == {"Qwen3TTSRMSNorm"}
    layer = ours.model.layers[0]
    x = torch.randn(1, 4, stock.config.hidden_size)
    before = ours.model(inputs_embeds=x, use_cache=False).last_hidden_state
    layer.mlp.up_proj = nn.Sequential(layer.mlp.up_proj, nn.Linear(*[layer.mlp.up_proj.out_features] * 2))
    assert not torch.allclose(before, ours.model(inputs_embeds=x, use_cache=False).last_hidden_state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch's fused norm is a GPU's")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [64, 128, 1024, 2048])
def test_on_a_gpu_the_fused_kernel_is_right(width: int, kind: torch.dtype):
    """For the widths of heads and of the released models, at the rows of a batch of 8192 positions, both ways."""
    made = torch.Generator("cuda").manual_seed(0)
    x, gradient = (torch.randn(131072, width, generator=made, device="cuda").to(kind) for _ in range(2))
    weight = (1 + 0.3 * torch.randn(width, generator=made, device="cuda")).to(kind)
    results = []
    for precise in (False, True):
        given = [t.double() if precise else t for t in (x, weight)]
        given = [t.detach().requires_grad_() for t in given]
        normed = torch.nn.functional.rms_norm(given[0], (width,), given[1], 1e-6)
        results.append([normed, *torch.autograd.grad(normed, given, gradient.to(normed.dtype))])
    for found, exact in zip(*results, strict=True):
        assert (found.double() - exact).norm() <= (1e-2 if kind == torch.bfloat16 else 1e-5) * exact.norm()
