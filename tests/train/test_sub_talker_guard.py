"""The promise that a sub-talker which learns nothing stops training in the first step."""

from __future__ import annotations

import pytest

from job.core.errors import TrainingStopped
from job.train.sub_talker_guard import check_sub_talker, sub_talker_gradients


def objective_of(base):
    import torch
    from qwen_tts import Qwen3TTSModel

    from tests.train.trained import objective_of

    tts = Qwen3TTSModel.from_pretrained(str(base), dtype=torch.float32)
    tts.model.requires_grad_(False)
    return objective_of(tts.model), tts


@pytest.fixture(scope="module")
def base_and_batch(tiny_base):
    """A real model and one batch of it."""
    import numpy as np

    from job.loss import layout
    from job.loss.batch import collate

    objective, tts = objective_of(tiny_base)
    ids = layout.SpecialIds.from_config(tts.model.config.to_dict())
    text = np.asarray(tts.processor.tokenizer(layout.text_template("Hello there."))["input_ids"])
    frames = np.random.default_rng(0).integers(0, 2048, (5, ids.codebooks)).astype(np.int16)
    vector = np.ones(tts.model.config.talker_config.hidden_size, dtype=np.float32)
    return objective, collate([layout.build(ids, text, frames, streaming=False)], [vector])


def backward(objective, batch, sub_talker):
    objective.zero_grad(set_to_none=True)
    losses = objective(batch)
    (losses.talker + losses.sub_talker if sub_talker else losses.talker).backward()
    return sub_talker_gradients(objective.model)


def test_a_sub_talker_without_a_gradient_stops_at_once(base_and_batch):
    """The sub-talker's loss left out of the sum is noticed, though its embeddings do get a gradient from the talker."""
    objective, batch = base_and_batch
    objective.model.talker.requires_grad_(True)
    check_sub_talker(backward(objective, batch, sub_talker=True), 0.3, 16)
    gradients = backward(objective, batch, sub_talker=False)
    embedding = objective.model.talker.code_predictor.get_input_embeddings()[0].weight
    assert embedding.grad.norm() > 0 and gradients
    with pytest.raises(TrainingStopped, match=r"none of the sub-talker's \d+ trained tensors"):
        check_sub_talker(gradients, 0.3, 16)
    check_sub_talker(gradients, 0.0, 16)
    check_sub_talker(gradients, 0.3, 1)


def test_one_head_without_a_gradient_stops_at_once(base_and_batch):
    objective, batch = base_and_batch
    objective.model.talker.requires_grad_(True)
    gradients = backward(objective, batch, sub_talker=True)
    dead = {name: 0.0 if name.startswith("lm_head.3.") else norm for name, norm in gradients.items()}
    with pytest.raises(TrainingStopped, match=r"heads 3 \(of 15\)"):
        check_sub_talker(dead, 0.3, 16)


def test_a_frozen_sub_talker_is_no_fault(base_and_batch):
    objective, batch = base_and_batch
    objective.model.talker.requires_grad_(True)
    objective.model.talker.code_predictor.requires_grad_(False)
    assert backward(objective, batch, sub_talker=True) == {}
    check_sub_talker({}, 0.3, 16)


def test_adapters_of_a_sub_talker_that_is_trained_pass_the_first_step(tiny_base, base_and_batch):
    """An adapter's A has a zero gradient while its B is zero; that alone is no fault."""
    from job.config.settings import Settings
    from job.train.adapt import adapt

    objective, _ = objective_of(tiny_base)
    _, batch = base_and_batch
    adapt(objective.model, Settings(train_mode="lora"))
    gradients = backward(objective, batch, sub_talker=True)
    assert any(norm == 0.0 for norm in gradients.values()) and any(gradients.values())
    check_sub_talker(gradients, 0.3, 16)
    with pytest.raises(TrainingStopped, match="none of the sub-talker"):
        check_sub_talker(backward(objective, batch, sub_talker=False), 0.3, 16)
