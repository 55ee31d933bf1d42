"""What `make gpu-check` times as a candidate for the job computes what the job computes: a wrong one may be fast."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from job import fast
from job.config.settings import Settings
from job.fast import attention
from job.loss.objective import Objective
from job.train import adapt
from tests.support import memory

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from gpu import candidates


def losses_and_gradients(model, batch):
    objective = Objective(model)
    found = objective(batch)
    (found.talker + found.sub_talker).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return torch.stack([found.talker, found.sub_talker]).detach(), gradients


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("name", sorted(candidates.ALL))
def test_a_candidate_gives_the_losses_and_gradients_of_the_job(tiny_base, name, interleaved):
    """Samples of several lengths, sections joined in both ways, shared key heads; and afterwards all is as before."""
    from qwen_tts.core.models import Qwen3TTSForConditionalGeneration
    from qwen_tts.core.models import modeling_qwen3_tts as stock

    config = memory.config_of(
        tiny_base, width=64, text_width=32, layers=2, heads=4, groups=2, head=24, inner=96, sub_width=32, sub_layers=2
    )
    config.talker_config.rope_scaling["interleaved"] = interleaved
    torch.manual_seed(0)
    model = Qwen3TTSForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    settings = Settings(train_mode="full")
    adapt.adapt(model, settings)
    fast.apply(model, settings, torch.device("cpu"), "no")
    model.train()
    batch, _ = memory.batch_of(config, [5, 17, 1, 40])
    expected, by_ours = losses_and_gradients(model, batch)
    before = stock.apply_multimodal_rotary_pos_emb, stock.apply_rotary_pos_emb
    calls = []
    with candidates.ALL[name](model.talker), pytest.MonkeyPatch.context() as patch:
        for inner in ("_by", "_by_products"):
            stands = getattr(candidates, inner)
            patch.setattr(candidates, inner, lambda *args, stands=stands: calls.append(1) or stands(*args))
        found, by_theirs = losses_and_gradients(model, batch)
    assert calls, "the candidate was not used"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert by_theirs.keys() == by_ours.keys()
    for key, gradient in by_ours.items():
        torch.testing.assert_close(by_theirs[key], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max() + 1e-9))
    assert (stock.apply_multimodal_rotary_pos_emb, stock.apply_rotary_pos_emb) == before
    again, _ = losses_and_gradients(model, batch)
    assert torch.equal(again, expected)
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    assert ALL_ATTENTION_FUNCTIONS[attention.NAME] is attention.attend
