"""The plan's figures are those of the run that follows."""

from __future__ import annotations

import pytest
import torch

from job import pipeline, plan
from job import settings as variables
from job.train import adapt
from tests.commands import run_job

QUICK = {"PRESET": "demo", "DEVICE": "cpu", "MAX_TRAIN_SAMPLES": "5"}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    directory = tmp_path_factory.mktemp("plan")
    pipeline.run(variables.load({**QUICK, "WORK_DIR": str(directory)}), "fetch", "prepare")
    return directory


@pytest.mark.parametrize(
    "values",
    [
        {"TRAIN_MODE": "full"},
        {"TRAIN_MODE": "lora", "LORA_R": "4"},
        {"TRAIN_MODE": "lora", "LORA_MLP": "false", "LORA_HEADS": "false", "TRAIN_TEXT_PROJECTION": "false"},
        {"TRAIN_MODE": "lora", "LORA_SUB_TALKER": "false"},
        {"TRAIN_MODE": "layers", "REPLACE_LAST_N_LAYERS": "1", "ADD_NEW_LAYERS": "2"},
        {"TRAIN_MODE": "layers", "REPLACE_LAST_N_LAYERS": "1", "FREEZE_ORIGINAL_LAYERS": "false"},
    ],
    ids=lambda v: "-".join(v.values()),
)
def test_trained_parameters_are_counted_as_they_are_trained(work, values):
    """The count from the base's file headers equals the number of values that training would move."""
    from qwen_tts import Qwen3TTSModel

    from job.models import base_directory

    settings = variables.load({**QUICK, "WORK_DIR": str(work), **values})
    model = Qwen3TTSModel.from_pretrained(str(base_directory(settings)), dtype=torch.float32).model
    expected = sum(group.size for group in adapt.adapt(model, settings))
    assert plan.estimate(settings).trained == expected


def test_steps_and_rows(work, capsys):
    """Rows, steps an epoch and steps in all; MAX_STEPS overrides NUM_EPOCHS; the command prints them."""
    settings = variables.load({**QUICK, "WORK_DIR": str(work), "BATCH_SIZE": "2", "GRAD_ACCUM": "2"})
    estimate = plan.estimate(settings.model_copy(update={"max_steps": None, "num_epochs": 3}))
    assert (estimate.rows, estimate.steps_per_epoch, estimate.steps) == (5, 2, 6)
    result = run_job(capsys, ["plan"], {**QUICK, "WORK_DIR": work, "MAX_STEPS": "7"})
    assert result.code == 0, result.err
    assert "7 in all" in result.out


def test_a_plan_needs_prepared_data(tmp_path, capsys):
    result = run_job(capsys, ["plan"], {**QUICK, "WORK_DIR": tmp_path})
    assert result.code == 2
    assert "prepare" in result.errors[0]


def test_the_arithmetic_is_what_the_real_model_does(work):
    """FLOPs by formula against torch's own count of the forward pass of talker and sub-talker, padding and all."""
    from qwen_tts import Qwen3TTSModel
    from torch.utils.flop_counter import FlopCounterMode

    from job.flops import Work
    from job.models import base_directory

    settings = variables.load({**QUICK, "WORK_DIR": str(work)})
    model = Qwen3TTSModel.from_pretrained(
        str(base_directory(settings)), dtype=torch.float32, attn_implementation="eager"
    ).model
    formula = Work.of({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    talker, sub = model.talker, model.talker.code_predictor
    frames = 40
    width, books = talker.config.hidden_size, formula.books
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        states = talker.model(inputs_embeds=torch.zeros(1, frames, width), use_cache=False).last_hidden_state
        talker.codec_head(states)
        inner = sub.model(inputs_embeds=torch.zeros(frames, books, width), use_cache=False).last_hidden_state
        for index, head in enumerate(sub.lm_head):
            head(inner[:, index])
    # Eager attention computes the full square where causal attention needs half of it, a head at a position too few.
    square = 2 * formula.queries * frames**2 + 2 * formula.sub_queries * frames * books**2
    counted = counter.get_total_flops() - square + 2 * formula.head
    ours = formula.of_sample(frames, frames, 1.0, backward=0)
    assert ours == pytest.approx(counted, rel=0.02)


def test_hours_go_with_the_work_and_the_gpus(work):
    """Half the steps, or twice the GPUs for as many epochs, take half as long; what does not fit is said."""
    settings = variables.load({**QUICK, "WORK_DIR": str(work), "MAX_STEPS": "100"})
    whole, half = (plan.estimate(settings.model_copy(update={"max_steps": n})) for n in (100, 50))
    assert plan.hours_on(half, "H100")[0] == pytest.approx(plan.hours_on(whole, "H100")[0] / 2)
    many = {"max_steps": None, "num_epochs": 8, "batch_size": 1}
    one, two = (plan.estimate(settings.model_copy(update={**many, "num_gpus": n})) for n in ("1", "2"))
    assert two.steps_per_epoch == 3 and one.steps_per_epoch == 5
    assert plan.hours_on(two, "L4")[1] == pytest.approx(plan.hours_on(one, "L4")[1] / 2)
    best, worst = plan.hours_on(one, "A100")
    assert worst == pytest.approx(best * plan.UTILIZATION[1] / plan.UTILIZATION[0])
