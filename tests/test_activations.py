"""The memory that training is said to take is what it takes: against the storages that exist in real steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from job.config.settings import Settings
from job.estimate import activations
from job.estimate.activations import Load, Working
from job.estimate.layer_bytes import Types
from tests.support import memory

#: How far the estimate may be from the measurement.
TOLERANCE = 0.1
#: Widths like those of the 1.7B and the 0.6B model, a quarter as wide.
WIDE: dict[str, Any] = {
    "width": 512, "text_width": 512, "layers": 4, "heads": 4, "groups": 2, "head": 128, "inner": 1536,
    "sub_width": 256, "sub_layers": 3,
}  # fmt: skip
NARROW: dict[str, Any] = {**WIDE, "width": 256, "inner": 768, "layers": 6}


def lengths(positions: int, seed: int = 0) -> list[int]:
    """Frames of log-normal samples that fill so many positions."""
    random = np.random.default_rng(seed)
    found: list[int] = []
    while positions > 0:
        found.append(int(np.clip(random.lognormal(np.log(50), 0.7), 6, 250)))
        positions -= found[-1] * 4 // 3 + 12
    return found


def both(config: Any, frames: list[int], settings: Settings) -> tuple[Working, memory.Measured]:
    """The estimate for a batch of such samples, and what its step held."""
    with torch.device("meta"):
        from qwen_tts.core.models import Qwen3TTSForConditionalGeneration

        shapes = memory.shapes_of(Qwen3TTSForConditionalGeneration._from_config(config, dtype=torch.float32))
    bf16 = settings.mixed_precision != "no"
    model = memory.empty_model(config, settings, bf16)
    batch, load = memory.batch_of(config, frames)
    with memory.as_on_cuda():
        measured = memory.measure(model, batch, settings, bf16=bf16)
    return activations.working(shapes, settings, load, measured.gradients), measured


def agree(found: Working, measured: memory.Measured) -> None:
    """Each moment by itself: one must not hide another. The lower one may be said to be a little higher than it is."""
    assert found.peak == pytest.approx(measured.peak, rel=TOLERANCE)
    assert found.forward == pytest.approx(measured.forward, rel=TOLERANCE)
    backward = max(found.backward, found.late)
    assert (1 - TOLERANCE) * measured.backward <= backward
    assert backward <= max((1 + TOLERANCE) * measured.backward, 0.5 * measured.peak)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("checkpointed", [False, "selective", True], ids=["all kept", "selective", "checkpointed"])
@pytest.mark.parametrize("shape", [WIDE, NARROW], ids=["as 1.7B", "as 0.6B"])
def test_the_estimate_is_what_a_step_holds(tiny_base, mode, checkpointed, shape):
    """Adapters or all weights, in bf16 autocast, with and without gradient checkpointing."""
    settings = Settings(train_mode=mode, gradient_checkpointing=checkpointed)
    agree(*both(memory.config_of(tiny_base, **shape), lengths(3000), settings))


@pytest.mark.parametrize(
    "values",
    [
        {"train_mode": "full", "mixed_precision": "no"},
        {"train_mode": "lora", "mixed_precision": "no", "lora_dropout": 0.1},
        {"train_mode": "lora", "lora_mlp": False, "lora_heads": False, "lora_sub_talker": False},
        {"train_mode": "lora", "lora_dropout": 0.1, "train_text_projection": False},
        {"train_mode": "layers", "replace_last_n_layers": 2, "add_new_layers": 1},
        {"train_mode": "full", "sub_talker_frame_fraction": 1.0},
        {"train_mode": "full", "master_weights": "bf16_stochastic"},
        {"train_mode": "lora", "master_weights": "bf16_stochastic"},
    ],
    ids=lambda values: "-".join(str(v) for v in values.values()),
)
@pytest.mark.parametrize(
    "checkpointed",
    [False, *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("selective", True))],
    ids=["all kept", "selective", "checkpointed"],
)
def test_it_follows_the_settings(tiny_base, values, checkpointed):
    settings = Settings(**values, gradient_checkpointing=checkpointed)
    agree(*both(memory.config_of(tiny_base, **WIDE), lengths(2000), settings))


@st.composite
def shapes(draw: Any) -> dict[str, Any]:
    groups = draw(st.sampled_from([1, 2, 4]))
    width = draw(st.sampled_from([192, 320, 768]))
    return {
        "width": width,
        "text_width": draw(st.sampled_from([256, 640])),
        "layers": draw(st.integers(1, 7)),
        "heads": groups * draw(st.sampled_from([1, 3])),
        "groups": groups,
        "head": draw(st.sampled_from([32, 64, 96])),
        "inner": draw(st.sampled_from([1, 2, 4])) * width,
        "sub_width": draw(st.sampled_from([128, width])),
        "sub_layers": draw(st.integers(1, 4)),
    }


@pytest.mark.thorough
@hypothesis_settings(max_examples=5, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(
    shape=shapes(),
    mode=st.sampled_from(["full", "lora"]),
    checkpointed=st.sampled_from([False, "selective", True]),
    positions=st.integers(300, 5000),
)
def test_it_follows_the_shapes(tiny_base, shape, mode, checkpointed, positions):
    """Shapes that the formula has not been looked at with: it counts them, it is not fitted to some."""
    settings = Settings(train_mode=mode, gradient_checkpointing=checkpointed)
    agree(*both(memory.config_of(tiny_base, **shape), lengths(positions), settings))


@pytest.mark.thorough
@pytest.mark.parametrize("size", ["1.7B", "0.6B"])
@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("checkpointed", [False, "selective", True], ids=["all kept", "selective", "checkpointed"])
def test_it_holds_for_the_released_shapes(tiny_base, monkeypatch, size, mode, checkpointed):
    """Batches of 8192 positions."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import common

    settings = Settings(train_mode=mode, gradient_checkpointing=checkpointed)
    agree(*both(common.released_config(size, tiny_base), lengths(8192), settings))


@pytest.mark.parametrize("mode", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_empty_tensors_are_counted_as_real_ones(tiny_base, mode):
    """What is measured on tensors without values is, to the byte, what steps with values hold."""
    from job import fast
    from job.model.loading import load_model
    from job.train import adapt

    settings = Settings(train_mode=mode)
    real = load_model(tiny_base, torch.device("cpu"), torch.float32).model
    adapt.adapt(real, settings)
    fast.apply(real, settings, torch.device("cpu"), "no")
    batch, _ = memory.batch_of(real.config, [30, 7, 55])
    held = memory.watch(real, batch, settings, bf16=False)
    assert held == memory.measure(memory.empty_model(real.config, settings, bf16=False), batch, settings, bf16=False)
    assert held.peak > 1e6


def test_more_of_anything_takes_more(tiny_base):
    """Positions, frames, and accumulated batches; checkpointing takes less."""
    from qwen_tts.core.models import Qwen3TTSForConditionalGeneration

    with torch.device("meta"):
        model = Qwen3TTSForConditionalGeneration._from_config(memory.config_of(tiny_base, **WIDE), dtype=torch.float32)
    shapes = memory.shapes_of(model)
    settings, load = Settings(train_mode="full"), Load(4000, 3000, 40, 500)

    def peak(load: Load = load, **more: Any) -> int:
        changed = more.pop("settings", settings)
        return activations.working(shapes, changed, load, 10**8, **more).peak

    assert peak(Load(8000, 3000, 40, 500)) > peak() and peak(Load(4000, 3000, 400, 500)) > peak()
    assert peak(whole=False) == peak() + 10**8
    less, least = (
        peak(settings=settings.model_copy(update={"gradient_checkpointing": how})) for how in ("selective", True)
    )
    assert least < less < peak()
    lora = settings.model_copy(update={"train_mode": "lora"})
    assert peak(settings=lora, types=Types.of(lora, new_languages=True)) > peak(settings=lora)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: against what its allocator handed out")
@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("checkpointed", [False, "selective", True], ids=["all kept", "selective", "checkpointed"])
def test_a_gpu_hands_out_what_was_estimated(tiny_base, mode, checkpointed):
    from qwen_tts.core.models import Qwen3TTSForConditionalGeneration

    from job import fast
    from job.loss.objective import Objective
    from job.train import adapt, setup

    settings = Settings(train_mode=mode, gradient_checkpointing=checkpointed)
    config, device = memory.config_of(tiny_base, **WIDE), torch.device("cuda")
    with device:
        model = Qwen3TTSForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    shapes = memory.shapes_of(model)
    adapt.adapt(model, settings)
    if mode == "lora":
        setup.lower_weights(model)
    fast.apply(model, settings, device, "bf16")
    objective = Objective(model).train()
    batch, load = memory.batch_of(config, lengths(16000))

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            losses = objective(batch.turn(settings.sub_talker_frame_fraction).to(device))
        (losses.talker / losses.talker_terms + 0.3 * losses.sub_talker / losses.sub_talker_terms).backward()

    step()  # libraries take their workspaces
    gradients = sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None)
    model.zero_grad(set_to_none=True)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    held = torch.cuda.max_memory_allocated() - before
    found = activations.working(shapes, settings, load, gradients)
    assert found.peak + found.in_kernels == pytest.approx(held, rel=TOLERANCE)
