"""A whole training on a pretended GPU: nothing mixes devices, and the host waits only where it is meant to."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from job.config import settings as variables
from job.demo.base import build
from job.fast import attention
from job.model import loading
from job.model.speaker_encoder import SpeakerEncoder
from job.optimizer.optimizers import optimizer_of
from job.prepare import codec
from job.train import adapt, loop
from job.train.update import Update
from tests.support import made_rows
from tests.support.pretended_gpu import CUDA, Gpu, GpuTensor

#: Where a run may wait for the GPU now and then: evaluations, checkpoints, and what is looked at once.
NOW_AND_THEN = (
    "loop._Run._evaluate", "loop._Run._save", "loop._Run._export", "loop._Run._check_sub_talker", "attention._repeats",
    "compact._tables",
)  # fmt: skip
STEPS = 3


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return build(
        tmp_path_factory.mktemp("base") / "base", hidden_size=48, heads=4, key_value_heads=2, head_dim=12,
        sub_talker_hidden_size=32, sub_talker_layers=1, codebooks=4,
    )  # fmt: skip


def settings_of(work: Path, base: Path, **more: Any) -> variables.Settings:
    """Of a training of a few steps."""
    languages = more.pop("languages", ("english", "german"))
    if not work.exists():
        rows = made_rows.rows(base, 6, languages=languages)
        made_rows.write(work, base, rows, made_rows.rows(base, 2, seed=1, languages=languages))
    given = {
        "INIT_MODEL_PATH": base, "DATA_MODE": "none", "DEVICE": "cuda", "MAX_STEPS": STEPS, "BATCH_SIZE": 3,
        "EVAL_STEPS": STEPS, "LEARNING_RATE": "1e-3", "PROBE_SENTENCES": 0, "WORK_DIR": work, "TRACKERS": "", **more,
    }  # fmt: skip
    return variables.load({name: str(value) for name, value in given.items()})


def trained(work: Path, base: Path, **more: Any) -> Gpu:
    """Train on a pretended GPU."""
    attention._repeats.cache_clear()
    settings = settings_of(work, base, **more)
    try:
        with Gpu() as gpu:
            result = loop.train(settings)
            gpu.settle()
    finally:
        attention._repeats.cache_clear()
    assert result["steps"] == STEPS and math.isfinite(result["last_loss"])
    return gpu


def in_steps(gpu: Gpu) -> Counter[str]:
    """Where the host has waited in training steps, and how often."""
    steps = [wait for wait in gpu.waits if wait.within("loop._Run.run") and not wait.within(*NOW_AND_THEN)]
    return Counter(map(str, steps))


def logged(work: Path, name: str, *keys: str) -> list[list[float]]:
    lines = (work / "output" / name).read_text().splitlines()
    return [[json.loads(line)[key] for key in keys] for line in lines]


def test_the_pretended_gpu_fails_where_one_does():
    with Gpu() as gpu:
        x = torch.ones(3, 4, device=CUDA)
        assert isinstance(x, GpuTensor) and x.is_cuda
        for mixed in (
            lambda: x + torch.ones(3, 4),
            lambda: torch.stack([x.sum(), torch.tensor(1.0)]),
            lambda: torch.tensor(1.0).add_(x.sum()),
            lambda: torch.nn.functional.linear(x, torch.ones(2, 4)),
            lambda: torch.randn(3, device=CUDA, generator=torch.Generator()),
        ):
            with pytest.raises(RuntimeError, match="Expected a"):
                mixed()
        with pytest.raises(TypeError, match="device type tensor to numpy"):
            x.numpy()
        assert (x * torch.tensor(2.0)).tolist() == [[2.0] * 4] * 3  # a number may be the host's
        assert [wait.what for wait in gpu.waits] == ["download"]

        early = torch.empty(3).pin_memory()
        early.copy_(x[:, 0], non_blocking=True)
        assert early.isnan().all()
        there = torch.cuda.Event()
        there.record()
        there.synchronize()
        assert early.tolist() == [1.0] * 3
        batch = torch.ones(3).pin_memory()
        batch.to(CUDA, non_blocking=True)
        batch.zero_()
        with pytest.raises(AssertionError, match="changed before it was copied"):
            torch.cuda.synchronize()

        waits = len(gpu.waits)
        x[x > 0], x[torch.tensor([0])], bool(x.any())
        assert [wait.what for wait in gpu.waits[waits:]] == ["read", "upload", "item"]
        with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            float(x.sum())


@pytest.mark.parametrize(
    "more",
    [
        {"TRAIN_MODE": "lora", "PROBE_SENTENCES": 2, "GRADIENT_CHECKPOINTING": "selective"},
        *(
            pytest.param(more, marks=pytest.mark.slow)
            for more in (
                {"TRAIN_MODE": "full", "GRADIENT_CHECKPOINTING": "true"},
                {"TRAIN_MODE": "lora", "LORA_DROPOUT": 0.1, "GRADIENT_CHECKPOINTING": "selective"},
                {"TRAIN_MODE": "layers", "SUB_TALKER_FRAME_FRACTION": 0.5, "GRADIENT_ACCUMULATION_STEPS": 2},
                {"TRAIN_MODE": "full", "MASTER_WEIGHTS": "bf16_with_fp32"},
                {"TRAIN_MODE": "lora", "MIXED_PRECISION": "no", "SUB_TALKER_LOSS_WEIGHT": 0},
                {"TRAIN_MODE": "lora", "languages": ("english", "persian")},
            )
        ),
    ],
    ids=str,
)
def test_no_step_waits_for_the_gpu(base, tmp_path, more):
    """But for the numbers of the step before, which have arrived by then: so the GPU has the next step's work already,
    and works while the host logs."""
    gpu = trained(tmp_path / "work", base, **more)
    assert in_steps(gpu) == {"event readings.Reading.tensor": STEPS}


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"TRAIN_MODE": "lora", "OPTIMIZER": "adamw"},
        {"TRAIN_MODE": "full", "OPTIMIZER": "adamw_8bit", "GRADIENT_CHECKPOINTING": "true"},
        {"TRAIN_MODE": "full", "MASTER_WEIGHTS": "bf16_stochastic"},
    ],
    ids=str,
)
def test_other_optimizers_wait_once_a_step(base, tmp_path, more):
    """They cannot be told on the GPU to change nothing: whether a step is taken is decided on the host."""
    gpu = trained(tmp_path / "work", base, **more)
    assert in_steps(gpu) == {"event readings.Reading.tensor": STEPS, "item update.Update.__call__": STEPS}


@pytest.mark.parametrize("kind", ["adamw_fused", "adamw", "adamw_8bit"])
def test_a_step_without_gradients_changes_nothing(kind):
    """Where only the sub-talker is trained, and none of the step's frames is its turn."""
    with Gpu():
        weight = torch.nn.Parameter(torch.ones(3, 4, device=CUDA))
        group = adapt.Group("all", 0.1, [("weight", weight)])
        update = Update(optimizer_of(variables.Settings(optimizer=kind), [group]), 1.0)
        norm = update([weight], torch.ones(2, dtype=torch.float64, device=CUDA))
        assert float(norm) == 0.0 and weight.tolist() == [[1.0] * 4] * 3


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"ATTN_IMPLEMENTATION": "eager"}], ids=str)
def test_a_gpu_trains_the_same_model_as_a_cpu(base, tmp_path, more):
    """In fp32: its branches compute the same, up to rounding."""
    more = {"TRAIN_MODE": "full", "MIXED_PRECISION": "no", "EVAL_STEPS": 1, **more}
    trained(tmp_path / "gpu", base, **more)
    loop.train(settings_of(tmp_path / "cpu", base, DEVICE="cpu", **more))
    for name, keys in (("training_log.jsonl", ["loss", "grad_norm"]), ("validation_log.jsonl", ["loss"])):
        ours, theirs = (logged(tmp_path / place, name, *keys) for place in ("gpu", "cpu"))
        assert len(ours) > 1
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"TRAIN_MODE": "lora", "LORA_DROPOUT": 0.2},
        {"TRAIN_MODE": "full", "MASTER_WEIGHTS": "bf16_with_fp32"},
        {"TRAIN_MODE": "full", "MASTER_WEIGHTS": "bf16_stochastic", "OPTIMIZER": "adamw_8bit"},
    ],
    ids=str,
)
def test_a_run_on_a_gpu_resumes_to_the_bit(base, tmp_path, more):
    more = {**more, "SAVE_STEPS": 1, "PROBE_SENTENCES": 1}
    trained(tmp_path / "work", base, **more)
    last = tmp_path / "work" / "output" / "last" / "model.safetensors"
    expected = load_file(last)
    last.unlink()
    gpu = trained(tmp_path / "work", base, **more)
    assert in_steps(gpu)["event readings.Reading.tensor"] == 1, "it goes on from the last checkpoint"
    found = load_file(last)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.slow
def test_a_gpu_gives_the_codes_and_voices_of_a_cpu(tiny_base):
    def computed(device: torch.device) -> tuple[Any, Any, torch.Tensor]:
        tokenizer = loading.load_speech_tokenizer(tiny_base / "speech_tokenizer", device)
        wrapped = codec.Codec(tokenizer, 16)
        time = np.arange(24000) / 24000
        clips = [
            np.asarray(0.3 * np.sin(2 * np.pi * pitch * time[:count]), np.float32)
            for pitch, count in ((220, 24000), (330, 9000))
        ]
        codes = wrapped.encode(clips)
        return codes, wrapped.decode(codes[0]), SpeakerEncoder(tiny_base, device).embed(clips[0], 24000)

    expected = computed(torch.device("cpu"))
    with Gpu():
        found = computed(CUDA)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found[0], expected[0], strict=True))
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)
    assert found[2].device.type == "cpu"
    torch.testing.assert_close(found[2], expected[2])
