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
