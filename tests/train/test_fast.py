"""What makes a model compute in other ways is put in place at once, in the documented order, and can be taken back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from job import fast
from job.config.settings import Settings
from job.fast import adapters, attention, compiled, norms, recompute
from job.model.loading import load_model
from job.train import adapt
from tests.train import adapters as moved

CPU = torch.device("cpu")
CHOICES: dict[str, dict[str, Any]] = {
    "lora": {"train_mode": "lora", "gradient_checkpointing": "selective"},
    "whole layers": {"train_mode": "full", "gradient_checkpointing": True},
    "compiled": {"train_mode": "lora", "torch_compile": True},
}


@pytest.fixture
def model(tiny_base: Any) -> Any:
    found = load_model(tiny_base, CPU, torch.float32).model
    found.speech_tokenizer = None
    return found


def state(model: Any) -> dict[str, Any]:
    """Types of modules, their own attributes, their hooks, and how attention is computed."""
    found: dict[str, Any] = {"limit": torch._dynamo.config.recompile_limit}
    for name, module in model.named_modules():
        own = {key: value for key, value in vars(module).items() if not isinstance(value, dict)}
        hooks = {key: list(value) for key, value in vars(module).items() if key.endswith("hooks")}
        found[name] = type(module), own, hooks, module.forward
    for part in (model.talker.model, model.talker.code_predictor.model):
        found[f"attention of {type(part).__name__}"] = part.config._attn_implementation
    return found


@pytest.mark.parametrize("choice", CHOICES)
def test_undo_leaves_the_stock_model(model: Any, choice: str, monkeypatch: pytest.MonkeyPatch):
    """Of the forwards, hooks and attributes of all modules, and of what belongs to the process."""

    settings = Settings(**CHOICES[choice])
    adapt.adapt(model, settings)
    monkeypatch.setattr(compiled, "check", lambda device: None)  # nothing is compiled before a first step
    before = state(model)
    changes = fast.apply(model, settings, CPU, "bf16")
    assert state(model) != before and fast.is_applied(model)
    changes.undo()
    assert state(model) == before and not fast.is_applied(model)
    changes.undo()
    assert state(model) == before


def test_twice_is_refused_and_after_undo_it_is_as_before(model: Any):
    settings = Settings(train_mode="lora")
    adapt.adapt(model, settings)
    changes = fast.apply(model, settings, CPU, "no")
    before = {name: getattr(module.forward, "__func__", None) for name, module in model.named_modules()}
    with pytest.raises(RuntimeError, match="changed already"):
        fast.apply(model, settings, CPU, "no")
    changes.undo()
    fast.apply(model, settings, CPU, "no")
    assert {name: getattr(module.forward, "__func__", None) for name, module in model.named_modules()} == before


def test_what_is_taken_back_computes_as_stock_modules_do(model: Any):
    settings = Settings(train_mode="lora")
    adapt.adapt(model, settings)
    moved.move(model)
    x = torch.randn(1, 7, model.talker.config.hidden_size)
    with torch.no_grad():
        stock = model.talker.model(inputs_embeds=x, use_cache=False).last_hidden_state
        changes = fast.apply(model, settings, CPU, "no")
        ours = model.talker.model(inputs_embeds=x, use_cache=False).last_hidden_state
        changes.undo()
        again = model.talker.model(inputs_embeds=x, use_cache=False).last_hidden_state
    torch.testing.assert_close(ours, stock)
    assert torch.equal(again, stock)


def test_the_order_is_the_documented_one(model: Any, monkeypatch: pytest.MonkeyPatch):
    """Adapters must know what is compiled, and what is recomputed is what the layers compute in the end."""
    parts = {"compiled": compiled, "attention": attention, "norms": norms, "adapters": adapters, "recompute": recompute}
    order: list[str] = []
    for name, module in parts.items():

        def noted(*given: Any, name: str = name, use: Any = module.use, **named: Any) -> Any:
            order.append(name)
            return use(*given, **named)

        monkeypatch.setattr(module, "use", noted)
    monkeypatch.setattr(compiled, "check", lambda device: None)
    settings = Settings(gradient_checkpointing="selective", torch_compile=True)
    adapt.adapt(model, settings)
    fast.apply(model, settings, CPU, "no").undo()
    documented = [line for line in fast.__doc__.splitlines() if line[:1].isdigit()]
    assert [next(name for name in order if f"`{name}`" in line) for line in documented] == order == list(parts)


def test_products_in_compiled_layers_are_left_to_the_compiler(model: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "check", lambda device: None)
    settings = Settings(train_mode="lora", torch_compile=True)
    adapt.adapt(model, settings)
    changes = fast.apply(model, settings, CPU, "no")
    ours = [
        name for name, module in model.named_modules() if getattr(module.forward, "func", None) is adapters._forward
    ]
    changes.undo()
    assert ours and all("head" in name for name in ours)
