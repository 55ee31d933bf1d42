"""A product and its adapter computed together: what peft computes, in less memory, and only where it is the same."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from job.fast import adapters, attention, norms
from job.fast.changes import Changes
from tests.train.test_norms import kept, run

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(talker: Any, targets: list[str] = TARGETS, kind: torch.dtype = torch.float32, **options: Any) -> Any:
    """A copy with adapters that do something; the base in `kind`, as training keeps it."""
    talker = copy.deepcopy(talker)
    torch.manual_seed(0)
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=12, target_modules=targets, **options), talker)
    for name, parameter in talker.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
        elif "lora_A" not in name:
            parameter.data = parameter.data.to(kind)
    return talker


def as_trained(talker: Any) -> None:
    """What training puts in the place of stock code besides."""
    attention.use(talker, Changes())
    norms.use(talker, Changes())


def together(talker: Any) -> list[str]:
    """Names of the layers that compute by ours."""
    return [name for name, m in talker.named_modules() if vars(m).get("forward") and hasattr(m, "lora_A")]


def gradients(talker: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in talker.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_values_and_all_gradients_are_pefts(stock_talker: Any, again: bool):
    """States, and gradients by the input and by every A and B, in talker and sub-talker."""
    from job.fast import recompute

    stock, ours = adapted(stock_talker), adapted(stock_talker)
    as_trained(ours)
    adapters.use(ours, Changes())
    if again:
        recompute.use(ours, Changes())
    assert len(together(ours)) == 7 * (len(ours.model.layers) + len(ours.code_predictor.model.layers))
    for theirs, mine in ((stock.model, ours.model), (stock.code_predictor.model, ours.code_predictor.model)):
        x = torch.randn(3, 9, theirs.config.hidden_size, generator=torch.Generator().manual_seed(1))
        for one, other in zip(run(theirs, x), run(mine, x), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    found, expected = gradients(ours), gradients(stock)
    assert found.keys() == expected.keys() and len(found) == 2 * len(together(ours))
    for name, one in expected.items():
        assert (found[name] - one).norm() <= 1e-5 * one.norm() + 1e-7, name


def test_in_half_precision_it_is_as_close_to_fp32_as_peft(stock_talker: Any):
    """A base in bf16 and adapters in fp32 under autocast, which is how training runs on a GPU."""
    stock, ours = (adapted(stock_talker, kind=torch.bfloat16) for _ in range(2))
    as_trained(ours)
    adapters.use(ours, Changes())
    x = torch.randn(2, 40, stock.model.config.hidden_size, generator=torch.Generator().manual_seed(2))
    precise = copy.deepcopy(stock).float()
    exact = run(precise.model, x)
    with torch.autocast("cpu", torch.bfloat16):
        theirs, mine = run(stock.model, x), run(ours.model, x)
    for fp32, one, other in zip(exact, theirs, mine, strict=True):
        assert other.dtype == one.dtype
        assert (other - fp32).norm() <= 1.3 * (one - fp32).norm()
    right, one, other = gradients(precise), gradients(stock), gradients(ours)
    for name in right:
        assert other[name].dtype == torch.float32
        assert (other[name] - right[name]).norm() <= 1.5 * (one[name] - right[name]).norm() + 1e-3 * right[name].norm()


@pytest.mark.parametrize("by_ours", [True, False])
def test_inputs_that_autocast_lowers_are_shared(stock_talker: Any, by_ours: bool):
    """By peft every adapter has a copy of its own: three of what attention reads, two of what the MLP reads."""
    pefts, ours = (adapted(stock_talker, TARGETS[:-1], torch.bfloat16) for _ in range(2))
    for talker in (pefts, ours):
        as_trained(talker)
    adapters.use(ours, Changes(), lowers=True, leave=[] if by_ours else [ours])
    with torch.autocast("cpu", torch.bfloat16):
        assert kept(ours.model) < 0.95 * kept(pefts.model)


def test_a_pass_that_is_broken_off_leaves_nothing_behind(stock_talker: Any):
    """When memory runs out between layers that share their input, the step is tried again with all of the memory."""
    ours = adapted(stock_talker, TARGETS)
    adapters.use(ours, Changes())
    layer = ours.model.layers[0]
    x = torch.randn(1, 4, ours.model.config.hidden_size, requires_grad=True)
    before = x * 2
    graph = weakref.ref(before)
    layer.mlp.gate_proj(before)
    del before
    gc.collect()
    assert graph() is not None, "or there is nothing to be forgotten"
    adapters.forget(ours)
    gc.collect()
    assert graph() is None


def test_what_reads_another_input_than_its_neighbours_gets_its_own_result(stock_talker: Any):
    """q, k and v are computed by one call where they read one tensor; also each by itself, or only some adapted."""
    for targets in (TARGETS, ["q_proj", "v_proj"], ["k_proj", "v_proj"]):
        stock = adapted(stock_talker, targets)
        ours = adapted(stock_talker, targets)
        adapters.use(ours, Changes())
        theirs, mine = (talker.model.layers[0].self_attn for talker in (stock, ours))
        one, other = (torch.randn(3, mine.q_proj.in_features) for _ in range(2))
        for name, x in (("v", other), ("q", one), ("k", other), ("v", one), ("k", one), ("v", one), ("q", other)):
            found, expected = (getattr(attention, f"{name}_proj")(x) for attention in (mine, theirs))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=f"{targets}, {name}")


def test_a_head_is_adapted_without_its_weight_being_trained(stock_talker: Any):
    """LORA_HEADS, and gradients that nobody asked for are not made."""
    ours = adapted(stock_talker, ["codec_head"])
    adapters.use(ours, Changes())
    states = torch.randn(5, ours.config.hidden_size)
    ours.codec_head(states).sum().backward()
    head = ours.codec_head
    assert head.base_layer.weight.grad is None and head.lora_A["default"].weight.grad is not None
    with torch.no_grad():
        expected = type(head).forward(head, states)
        torch.testing.assert_close(head(states), expected)
        head.merge()
        torch.testing.assert_close(head(states), expected)


def test_what_it_is_not_written_for_is_left_to_peft(stock_talker: Any):
    """Dropout, biases, other kinds, layers that are compiled; and a base in a type of its own, outside of autocast."""
    for options in ({"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}):
        talker = adapted(stock_talker, **options)
        adapters.use(talker, Changes())
        assert not together(talker), options
    talker = adapted(stock_talker)
    adapters.use(talker, Changes(), leave=[talker.model.layers[0]])
    assert len(together(talker)) == 7 * (len(talker.model.layers) + len(talker.code_predictor.model.layers) - 1)
    talker = adapted(stock_talker, kind=torch.bfloat16)
    plain = talker.model.layers[0].self_attn.q_proj
    x = torch.randn(3, plain.in_features).bfloat16()
    expected = plain(x)
    adapters.use(talker, Changes())
    assert plain(x).dtype == torch.bfloat16 and torch.equal(plain(x), expected)
