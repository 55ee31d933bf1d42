"""What is trained, what is not, and that merged weights are what the adapter computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from job.config import settings as variables
from job.core.errors import BadInput
from job.loss.batch import collate
from job.loss.layout import SpecialIds, build
from job.model.loading import load_model, stored_type
from job.train import adapt, added_languages
from tests.train.trained import objective_of, sub_talker_pass, talker_pass

BASE = {"TRAIN_JSONL": "x.jsonl", "LORA_R": "4", "LORA_ALPHA": "8"}


@pytest.fixture
def model(tiny_base):
    from qwen_tts import Qwen3TTSModel

    return Qwen3TTSModel.from_pretrained(str(tiny_base), dtype=torch.float32).model


def trained(groups):
    return {name for group in groups for name, _ in group.parameters}


def settings(**values):
    return variables.load({**BASE, **values})


def test_full_trains_the_talker_but_not_the_text_embedding(model):
    """Full: every talker weight except the text embedding; the speaker encoder stays frozen."""
    names = trained(adapt.adapt(model, settings(TRAIN_MODE="full")))
    expected = {n for n, _ in model.named_parameters() if n.startswith("talker.") and ".text_embedding." not in n}
    assert names == expected
    assert {n for n, p in model.named_parameters() if p.requires_grad} == expected


def test_text_projection_has_a_rate_of_its_own(model):
    """TEXT_PROJECTION_LR applies to text_projection and to nothing else."""
    groups = adapt.adapt(model, settings(TRAIN_MODE="lora", LR="1e-5", TEXT_PROJ_LR="4e-5"))
    rates = {group.name: group.rate for group in groups}
    assert rates == {"lora": 1e-5, "text_projection": 4e-5}
    assert all(".text_projection." in n for n, _ in groups[1].parameters)


@pytest.mark.parametrize(
    ("values", "inside", "outside"),
    [
        ({"LORA_MLP": "false"}, "talker.model.layers.0.self_attn.q_proj.lora_A", ".mlp."),
        ({"LORA_HEADS": "false"}, "talker.model.layers.1.mlp.up_proj.lora_B", "_head"),
        ({"LORA_SUB_TALKER": "false"}, "talker.model.layers.1.mlp.up_proj.lora_B", ".code_predictor."),
        ({"TRAIN_TEXT_PROJECTION": "false"}, "talker.code_predictor.model.layers.0.self_attn.o_proj", ".text_proj"),
    ],
)
def test_lora_goes_where_it_is_asked_to(model, values, inside, outside):
    """LORA_MLP, LORA_SUB_TALKER and TRAIN_TEXT_PROJECTION each switch their part, and only adapters are trained."""
    names = trained(adapt.adapt(model, settings(TRAIN_MODE="lora", **values)))
    assert any(inside in n for n in names)
    assert not any(outside in n for n in names)
    assert all("lora_" in n or ".text_projection." in n for n in names)


@pytest.mark.parametrize("mode", ["full", "lora", "layers"])
def test_a_sub_talker_whose_loss_counts_for_nothing_is_left_alone(model, mode):
    """SUB_TALKER_LOSS_WEIGHT=0: no decay of what has no gradient; the talker's inputs are trained as ever."""
    values = {"TRAIN_MODE": mode, "REPLACE_LAST_N_LAYERS": "0"}
    weighted = trained(adapt.adapt(model, settings(**values, SUB_TALKER_LOSS_WEIGHT="0")))
    assert {name for name in weighted if ".code_predictor." in name and "codec_embedding" not in name} == set()
    assert any(".code_predictor.model.codec_embedding." in name for name in weighted) == (mode != "lora")
    assert any(name.startswith("talker.codec_head") for name in weighted)


@pytest.mark.parametrize("mode", ["lora", "layers"])
def test_a_base_kept_as_it_is_stored_begins_as_one_in_fp32(tiny_base, mode):
    """To the bit: neither what is drawn nor the row of a new language is rounded to the type of frozen weights."""
    assert stored_type(tiny_base) is torch.bfloat16
    begun = []
    for kind in (torch.float32, torch.bfloat16):
        loaded = load_model(tiny_base, torch.device("cpu", 0), kind).model  # with a number, as one of several processes
        torch.manual_seed(5)
        added_languages.initialise(loaded, {"klingon": 2075}, settings())
        groups = adapt.adapt(loaded, settings(TRAIN_MODE=mode, ADD_NEW_LAYERS="1"), [2075])
        assert {parameter.dtype for group in groups for _, parameter in group.parameters} == {torch.float32}
        begun.append(({name: p.float() for name, p in loaded.named_parameters()}, torch.get_rng_state()))
    (first, drawn), (second, drawn_again) = begun
    assert first.keys() == second.keys() and torch.equal(drawn, drawn_again)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    row = first["talker.model.codec_embedding.weight"][2075]
    assert not torch.equal(row, row.bfloat16().float()), "a mean that bf16 holds would prove nothing"


def test_what_bf16_does_not_hold_is_loaded_in_fp32(tmp_path):
    """One tensor is enough, in whichever of the files."""
    save_file({"a": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "model-00001-of-00002.safetensors")
    assert stored_type(tmp_path) is torch.bfloat16
    save_file({"b": torch.ones(2), "c": torch.ones(2).bfloat16()}, tmp_path / "model-00002-of-00002.safetensors")
    assert stored_type(tmp_path) is torch.float32


def perturb(model, groups):
    torch.manual_seed(1)
    with torch.no_grad():
        for group in groups:
            for _, parameter in group.parameters:
                parameter.add_(0.05 * torch.randn_like(parameter))


def logits(model, seed=0):
    """The training objective's own logits, talker and sub-talker, on a made-up sample."""
    random = np.random.default_rng(seed)
    ids = SpecialIds.from_config(model.config.to_dict())
    frames = random.integers(0, 2048, (6, ids.codebooks)).astype(np.int16)
    vector = random.normal(0, 0.1, model.config.talker_config.hidden_size).astype(np.float32)
    batch = collate([build(ids, np.arange(20, 34), frames, streaming=False)], [vector])
    objective = objective_of(model)
    with torch.no_grad():
        talker, hidden, codebooks = talker_pass(objective, batch)
        heads = sub_talker_pass(objective, hidden[batch.hidden_positions], codebooks[batch.frame_rows])
        losses = objective(batch)
    return talker, torch.stack(list(heads)), torch.stack([losses.talker, losses.sub_talker])


def test_merged_weights_are_the_adapted_model(model, tiny_base):
    """The merged export computes what the model with adapters computes, to 1e-5 in fp32, under stock names."""
    from qwen_tts import Qwen3TTSModel

    groups = adapt.adapt(model, settings(TRAIN_MODE="lora"))
    perturb(model, groups)
    model.eval()
    expected = logits(model)
    fresh = Qwen3TTSModel.from_pretrained(str(tiny_base), dtype=torch.float32).model.eval()
    assert (logits(fresh)[0] - expected[0]).abs().max() > 1e-2, "the adapter must matter for this to prove anything"
    merged = dict(adapt.merged_weights(model))
    assert set(merged) == set(fresh.state_dict())
    fresh.load_state_dict(merged)
    for ours, theirs in zip(logits(fresh), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_layers_replaces_and_adds(model):
    """TRAIN_MODE=layers: N fresh layers, M added ones; the original layers stay as they are."""
    before = [layer.self_attn.q_proj.weight.clone() for layer in model.talker.model.layers]
    names = trained(adapt.adapt(model, settings(TRAIN_MODE="layers", REPLACE_LAST_N_LAYERS="1", ADD_NEW_LAYERS="2")))
    layers = model.talker.model.layers
    assert len(layers) == 4 == model.config.talker_config.num_hidden_layers
    assert torch.equal(layers[0].self_attn.q_proj.weight, before[0])
    assert not torch.equal(layers[1].self_attn.q_proj.weight, before[1])
    assert {n.split(".")[3] for n in names if n.startswith("talker.model.layers.")} == {"1", "2", "3"}
    assert [layer.self_attn.layer_idx for layer in layers] == [0, 1, 2, 3]


def test_an_added_layer_starts_as_identity(model):
    """ADD_NEW_LAYERS alone changes nothing that the model says before training."""
    expected = logits(model.eval())
    adapt.adapt(model, settings(TRAIN_MODE="layers", REPLACE_LAST_N_LAYERS="0", ADD_NEW_LAYERS="2"))
    torch.testing.assert_close(logits(model.eval())[0], expected[0], atol=1e-6, rtol=0)


def test_more_layers_than_there_are(model):
    with pytest.raises(BadInput, match="REPLACE_LAST_N_LAYERS=9"):
        adapt.adapt(model, settings(TRAIN_MODE="layers", REPLACE_LAST_N_LAYERS="9"))


def test_original_layers_are_trained_when_they_are_not_frozen(model):
    """FREEZE_ORIGINAL_LAYERS=false trains them too."""
    names = trained(
        adapt.adapt(model, settings(TRAIN_MODE="layers", REPLACE_LAST_N_LAYERS="1", FREEZE_ORIGINAL_LAYERS="false"))
    )
    assert {n.split(".")[3] for n in names if n.startswith("talker.model.layers.")} == {"0", "1"}
