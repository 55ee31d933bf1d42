"""The plan's figures are those of the run that follows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from job import pipeline
from job.config import settings as variables
from job.dataset.prepared import read_summary
from job.estimate import lengths, memory, plan, timing
from job.estimate.activations import Load
from job.processes.ranks import ALONE
from job.train import adapt
from tests.support.commands import run_job

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
        {"TRAIN_MODE": "lora", "SUB_TALKER_LOSS_WEIGHT": "0"},
        {"TRAIN_MODE": "full", "SUB_TALKER_LOSS_WEIGHT": "0"},
        {"TRAIN_MODE": "layers", "REPLACE_LAST_N_LAYERS": "1", "ADD_NEW_LAYERS": "2"},
        {"TRAIN_MODE": "layers", "REPLACE_LAST_N_LAYERS": "1", "FREEZE_ORIGINAL_LAYERS": "false"},
    ],
    ids=lambda v: "-".join(v.values()),
)
def test_trained_parameters_are_counted_as_they_are_trained(work, values):
    """The count from the base's file headers equals the number of values that training would move."""
    from qwen_tts import Qwen3TTSModel

    from job.model.loading import base_directory

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
    assert "7 in total" in result.out
    assert "then 8 texts are said" in result.out
    twice = settings.model_copy(update={"test_texts": "One.|Two.", "text_layout": "mixed", "baselines": False})
    speakers = len(read_summary(settings.paths)["speakers"])
    assert plan.judged_clips(twice) == (4 * speakers, 4 * speakers + 12)


@pytest.mark.parametrize(
    "values",
    [
        {"BATCH_SIZE": "2", "GRAD_ACCUM": "2"},
        {"TOKENS_PER_BATCH": "1"},
        {"TOKENS_PER_BATCH": "150", "GRAD_ACCUM": "2"},
        {"TOKENS_PER_BATCH": "150", "TEXT_LAYOUT": "streaming", "ICL_FRACTION": "0.1"},
        {"TOKENS_PER_BATCH": "130", "TEXT_LAYOUT": "mixed", "CURRICULUM": "length"},
    ],
    ids=lambda v: "-".join(v.values()),
)
def test_the_steps_are_those_of_the_schedule(work, values):
    """Also where batches hold fewer positions than samples have, or a layout is rare that would need many more."""
    from job.train import setup
    from job.train.schedule import Schedule

    settings = variables.load({**QUICK, "WORK_DIR": str(work), **values})
    settings = settings.model_copy(update={"max_steps": None, "num_epochs": 3})
    with setup.accelerator_of(settings, ALONE) as accelerator:
        rows = setup.set_up(settings, accelerator).train_rows
    schedule = Schedule(settings, rows, settings.gradient_accumulation_steps)
    planned = plan.estimate(settings)
    assert (planned.steps_per_epoch, planned.steps) == (schedule.per_epoch, schedule.steps)


def test_a_plan_needs_prepared_data(tmp_path, capsys):
    result = run_job(capsys, ["plan"], {**QUICK, "WORK_DIR": tmp_path})
    assert result.code == 2
    assert "prepare" in result.errors[0]


def test_the_arithmetic_is_what_the_real_model_does(work):
    """FLOPs by formula against torch's own count of the forward pass of talker and sub-talker, padding and all."""
    from qwen_tts import Qwen3TTSModel
    from torch.utils.flop_counter import FlopCounterMode

    from job.estimate.flops import Work
    from job.model.loading import base_directory

    settings = variables.load({**QUICK, "WORK_DIR": str(work)})
    model = Qwen3TTSModel.from_pretrained(
        str(base_directory(settings)), dtype=torch.float32, attn_implementation="eager"
    ).model
    formula = Work.of({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    talker, sub = model.talker, model.talker.code_predictor
    frames = 40
    width, codebooks = talker.config.hidden_size, formula.codebooks
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        states = talker.model(inputs_embeds=torch.zeros(1, frames, width), use_cache=False).last_hidden_state
        talker.codec_head(states)
        inner = sub.model(inputs_embeds=torch.zeros(frames, codebooks, width), use_cache=False).last_hidden_state
        for index, head in enumerate(sub.lm_head):
            head(inner[:, index])
    # Eager attention computes the full square where causal attention needs half of it, a head at a position too few.
    square = 2 * formula.queries * frames**2 + 2 * formula.sub_queries * frames * codebooks**2
    counted = counter.get_total_flops() - square + 2 * formula.head
    ours = formula.of_sample(frames, frames, 1.0, backward=0)
    assert ours == pytest.approx(counted, rel=0.02)


def test_hours_go_with_the_steps_and_the_gpus(work):
    """Half the steps take half as long, and so do twice the GPUs for as many epochs where the arithmetic decides."""
    settings = variables.load({**QUICK, "WORK_DIR": str(work), "MAX_STEPS": "100"})
    whole, half = (plan.estimate(settings.model_copy(update={"max_steps": n})) for n in (100, 50))
    assert plan.hours_on(half, "H100")[0] == pytest.approx(plan.hours_on(whole, "H100")[0] / 2)
    many = {"max_steps": None, "num_epochs": 8, "batch_size": 1}
    one, two = (plan.estimate(settings.model_copy(update={**many, "num_gpus": n})) for n in ("1", "2"))
    assert two.steps_per_epoch == 3 and one.steps_per_epoch == 5
    large_one, large_two = (replace(found, flops=1e21) for found in (one, two))
    assert plan.hours_on(large_two, "L4")[1] == pytest.approx(plan.hours_on(large_one, "L4")[1] / 2, rel=1e-3)


def test_a_step_takes_what_its_host_needs_to_launch_it(work, capsys):
    """Measured on an H200: 392 ms for 8 clips, and 1,204 ms for 32,768 positions (3.45e14 FLOPs, eager)."""
    best, worst = timing.seconds_per_step(7.8e12, 1, 989e12)
    assert best < 0.392 < worst
    best, worst = timing.seconds_per_step(3.45e14, 1, 989e12)
    assert best < 1.204 < worst
    settings = variables.load({**QUICK, "WORK_DIR": str(work), "BATCH_SIZE": "1", "GRAD_ACCUM": "16"})
    assert timing.passes_per_step(settings, 90.0) == 1  # joined
    assert timing.passes_per_step(settings, 2000.0) == 4
    assert timing.passes_per_step(settings.model_copy(update={"distributed": "fsdp"}), 90.0) == 16
    plan.print_plan(settings)
    assert "a larger BATCH_SIZE takes hardly longer per step" in capsys.readouterr().out


@pytest.mark.parametrize(
    "values",
    [
        {"BATCH_SIZE": "2"},
        {"BATCH_SIZE": "2", "TEXT_LAYOUT": "streaming"},
        {"TOKENS_PER_BATCH": "150"},
        {"TOKENS_PER_BATCH": "20"},
        {"BATCH_SIZE": "2", "ICL_FRACTION": "1"},
    ],
    ids=lambda v: "-".join(v.values()),
)
def test_the_largest_batch_is_that_of_the_order(work, values):
    """No batch of the run is larger than what the plan reckons with, and the largest is not much smaller."""
    from job.estimate.lengths import Lengths
    from job.train import setup
    from job.train.order import epoch_order

    settings = variables.load({**QUICK, "WORK_DIR": str(work), **values})
    with setup.accelerator_of(settings, ALONE) as accelerator:
        rows = setup.set_up(settings, accelerator).train_rows
    largest = Lengths.of(settings).largest(settings)
    batches = []
    for epoch in range(6):
        order = epoch_order(
            rows, epoch=epoch, seed=1, batch_size=settings.batch_size, tokens_per_batch=settings.tokens_per_batch
        )
        batches += [rows.batch(numbers, epoch) for numbers in order]
    most = max(batch.text_index.shape[1] for batch in batches)
    assert most <= largest.positions <= 1.5 * most
    assert max(batch.target_frames for batch in batches) <= 1.1 * largest.frames


def test_memory_is_state_and_what_comes_on_top(work):
    """Gradients count once, accumulated batches have them from the start, and copies for an update are counted."""
    settings = variables.load({**QUICK, "WORK_DIR": str(work)})
    load = Load(8000, 5000, 80, 1000)
    found = memory.memory_of(settings, load)
    assert found.total == found.state + found.on_top + memory.CUDA_BYTES
    peak = found.working.peak + found.working.in_kernels
    assert found.state + found.on_top == memory.state_bytes(settings) - found.gradients + peak
    small = Load(40, 13, 1, 20)
    assert memory.memory_of(settings.model_copy(update={"optimizer": "adamw"}), small).on_top >= found.gradients
    accumulated = memory.memory_of(settings.model_copy(update={"gradient_accumulation_steps": 2}), load)
    assert accumulated.total == found.total + found.gradients
    sharded = settings.model_copy(update={"distributed": "fsdp"})
    assert memory.memory_of(sharded, small, processes=8).total < memory.memory_of(sharded, small).total
    low, high = (sharded.model_copy(update={"mixed_precision": precision}) for precision in ("bf16", "no"))
    one, other = (memory.memory_of(precision, small, processes=8).state for precision in (low, high))
    layer = [math.prod(s) for n, s in plan.shapes_of(settings).items() if n.startswith("talker.model.layers.0.")]
    assert other - one == 4 * 2 * sum(layer)  # what is put together is half as large


def test_what_nodes_send_each_other_is_said_where_the_network_decides(work, monkeypatch, capsys):
    """Gradients once there and back in all, in proportion to the nodes; nothing of it with one node or adapters."""
    settings = variables.load({**QUICK, "WORK_DIR": str(work), "TRAIN_MODE": "full", "NUM_NODES": "2"})
    found = plan.estimate(settings)
    assert plan.sent_bytes(settings, found) == found.trained * 4
    many = settings.model_copy(update={"num_nodes": 1000, "gradient_accumulation_steps": 4})
    assert plan.sent_bytes(many, found) == pytest.approx(2 * found.trained * 4, rel=0.01)
    sharded = {"distributed": "fsdp", "mixed_precision": "bf16"}
    once, often = (plan.sent_bytes(one.model_copy(update=sharded), found) for one in (settings, many))
    assert once == found.trained * 4 and often == pytest.approx(8 * once, rel=0.01)  # as much, in every pass
    monkeypatch.setattr(plan, "NETWORK", 1e15)
    plan.print_plan(settings)
    said = capsys.readouterr()
    assert "of 2 nodes sends" in said.out and said.err == ""
    monkeypatch.setattr(plan, "NETWORK", 1e3)
    plan.print_plan(settings)
    assert "the network is the bottleneck" in capsys.readouterr().err
    for other in ({"num_nodes": 1}, {"train_mode": "lora"}):
        plan.print_plan(settings.model_copy(update=other))
        said = capsys.readouterr()
        assert "nodes sends" not in said.out + said.err


def test_what_does_not_fit_is_taken_in_pieces_or_refused(work, monkeypatch, capsys):
    """A GPU that takes the batch in pieces is named with their number, one too small for a sample as such; what helps
    is said with what it takes."""
    settings = variables.load({**QUICK, "WORK_DIR": str(work), "TRAIN_MODE": "full"})
    load = Load(20000, 15000, 100, 2000)
    whole, half, alone = (memory.memory_of(settings, load, pieces=pieces).total for pieces in (1, 2, 100))
    assert alone < half < whole

    def gpu(total: float) -> tuple[float, float]:
        return total * 1.0001 / (1 - plan.HEADROOM) / 1e9, 1e12

    sizes = {"large": gpu(whole), "middle": gpu(half), "small": gpu(alone * 0.98)}
    monkeypatch.setattr(plan, "GPUS", sizes)
    assert [plan.pieces_on(settings, load, 1, name) for name in sizes] == [1, 2, 0]
    sample = plan.estimate(settings).lengths.longest()
    monkeypatch.setattr(plan, "GPUS", {"one": (1.0, 1e12), "other": sizes["middle"]})
    monkeypatch.setattr(lengths.Lengths, "largest", lambda self, settings: load if settings.batch_size > 2 else sample)
    plan.print_plan(settings)
    said = capsys.readouterr().out
    assert "one 1.0 GB: too small" in said and "split into 2 parts" in said
    assert all(name in said for name in ("BATCH_SIZE=2", "GRADIENT_CHECKPOINTING=true", "TRAIN_MODE=lora"))


def test_the_least_is_a_sample_at_a_time(work, tmp_path):
    """What doctor refuses a GPU by: the longest sample's step; before there is data, a second of speech's."""
    settings = variables.load({**QUICK, "WORK_DIR": str(work), "BATCH_SIZE": "4"})
    least = memory.least_bytes(settings)
    assert memory.state_bytes(settings) <= least < plan.estimate(settings).memory.total - memory.CUDA_BYTES
    nothing = variables.load({**QUICK, "WORK_DIR": str(tmp_path)})
    assert memory.state_bytes(settings) <= memory.least_bytes(nothing) <= least
