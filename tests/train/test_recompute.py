"""GRADIENT_CHECKPOINTING=selective: less is kept, and everything comes out the same to the bit."""

from __future__ import annotations

import pytest
import torch

from job.config import settings as variables
from job.core.errors import BadInput
from job.train import adapt
from tests.support import memory
from tests.train import adapters
from tests.train.trained import objective_of

MODES = {
    "full": {"TRAIN_MODE": "full"},
    "lora": {"TRAIN_MODE": "lora"},
    "dropout": {"TRAIN_MODE": "lora", "LORA_DROPOUT": "0.3"},
    "attention": {"TRAIN_MODE": "lora", "LORA_MLP": "false", "TRAIN_TEXT_PROJECTION": "false"},
    "layers": {"TRAIN_MODE": "layers", "REPLACE_LAST_N_LAYERS": "1"},
}


def step(base, mode, again, bf16):
    """Losses, gradients, and the bytes that autograd keeps of the forward pass."""
    from job.model.loading import load_model

    settings = variables.load({"PRESET": "demo", "DEVICE": "cpu", **MODES[mode], "GRADIENT_CHECKPOINTING": again})
    model = load_model(base, torch.device("cpu"), torch.float32).model
    torch.manual_seed(0)
    adapt.adapt(model, settings)
    adapters.move(model)
    batch, _ = memory.batch_of(model.config, [30, 7, 55])
    objective = objective_of(model, settings, bf16=bf16).train()
    live = memory.Live([*model.parameters(), *model.buffers()])
    torch.manual_seed(1)
    with live:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses = objective(batch.turn(1.0))
        kept = live.now
    torch.manual_seed(2)  # what was drawn in the forward pass comes from there, not from what is drawn now
    (losses.talker + losses.sub_talker).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return losses, gradients, kept


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("mode", MODES)
def test_losses_and_gradients_are_the_same_to_the_bit(tiny_base, mode, bf16):
    """With adapters on the MLP or none, all weights or a layer, dropout's random numbers, and under autocast."""
    expected, gradients, kept = step(tiny_base, mode, again="false", bf16=bf16)
    found, others, less = step(tiny_base, mode, again="selective", bf16=bf16)
    assert torch.equal(found.talker, expected.talker) and torch.equal(found.sub_talker, expected.sub_talker)
    assert gradients.keys() == others.keys() and any(".mlp." in name for name in gradients) == (mode != "attention")
    for name, gradient in gradients.items():
        assert torch.equal(others[name], gradient), name
    assert less < kept


def test_random_numbers_go_on_from_where_they_would(tiny_base):
    """The random numbers after a step are those after a step that keeps everything."""
    states = []
    for again in ("false", "selective"):
        step(tiny_base, "dropout", again, bf16=False)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_compiled_layers_are_refused():
    """TORCH_COMPILE chooses what is kept itself."""
    from job.train import combinations

    settings = variables.load(
        {"PRESET": "demo", "DEVICE": "cpu", "GRADIENT_CHECKPOINTING": "selective", "TORCH_COMPILE": "true"}
    )
    with pytest.raises(BadInput, match=r"GRADIENT_CHECKPOINTING=selective.*TORCH_COMPILE"):
        combinations.check(settings)


@pytest.mark.parametrize(
    ("said", "meant"),
    [("selective", "selective"), ("true", True), ("1", True), ("on", True), ("False", False), ("0", False)],
)
def test_the_old_spellings_mean_what_they_did(said, meant):
    assert variables.load({"PRESET": "demo", "GRADIENT_CHECKPOINTING": said}).gradient_checkpointing == meant
