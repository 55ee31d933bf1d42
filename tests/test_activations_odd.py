"""The memory that training is said to take, where something rare takes most of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qwen_tts.core.models import Qwen3TTSForConditionalGeneration

from job.config.settings import Settings
from job.estimate import activations
from job.estimate.activations import Load
from job.loss.batch import collate
from tests.support import memory

SHAPE: dict[str, Any] = {
    "width": 136, "text_width": 200, "layers": 3, "heads": 3, "groups": 3, "head": 48, "inner": 1088, "sub_width": 72,
    "sub_layers": 2,
}  # fmt: skip


def config_of(base: Path, directory: Path, shape: dict[str, Any], codebooks: int, codes: int) -> Any:
    """A model of this shape with other codebooks."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    talker = config["talker_config"]
    talker["vocab_size"] += codes - 2048
    talker["code_predictor_config"].update(vocab_size=codes, num_code_groups=codebooks)
    talker["num_code_groups"] = codebooks
    for name, value in talker.items():
        if name.startswith("codec_") and name.endswith("_id") and isinstance(value, int):
            talker[name] = value + codes - 2048
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return memory.config_of(directory, **{**SHAPE, **shape})


@pytest.mark.parametrize(
    ("shape", "codebooks", "codes", "frames", "values"),
    [
        pytest.param({"text_width": 1900}, 5, 700, [70] * 3, {"train_mode": "full"}, id="text projection"),
        pytest.param({"width": 72}, 2, 12000, [90] * 12, {"train_mode": "lora"}, id="output head"),
        pytest.param({}, 3, 300, [80] * 4, {"train_mode": "lora", "lora_r": 300}, id="adapters"),
        pytest.param(
            {"sub_width": 600, "sub_layers": 4}, 3, 600, [250] * 9,
            {"train_mode": "full", "sub_talker_frame_fraction": 1.0, "gradient_checkpointing": True}, id="three chunks",
        ),
        pytest.param(
            {"sub_width": 700}, 6, 5000, [90] * 3, {"train_mode": "full", "sub_talker_loss_weight": 0.0},
            id="a sub-talker without loss",
        ),
    ],
)  # fmt: skip
def test_what_takes_most_is_counted(tiny_base, tmp_path, shape, codebooks, codes, frames, values):
    """Within 10 %, as for the shapes of tests/test_activations.py."""
    settings = Settings(mixed_precision="bf16", **values)
    config = config_of(tiny_base, tmp_path, shape, codebooks, codes)
    with torch.device("meta"):
        shapes = memory.shapes_of(Qwen3TTSForConditionalGeneration._from_config(config, dtype=torch.float32))
    samples = memory.sequences(config, frames)
    vectors = [np.zeros(config.talker_config.hidden_size, np.float32)] * len(samples)
    batch = collate(samples, vectors, packed=True)
    load = Load(int(batch.text_index.shape[1]), sum(frames), len(frames), texts=len(batch.text_rows))
    model = memory.empty_model(config, settings, bf16=True)
    with memory.as_on_cuda():
        measured = memory.measure(model, batch, settings, bf16=True)
    found = activations.working(shapes, settings, load, measured.gradients)
    assert found.peak == pytest.approx(measured.peak, rel=0.1)
    assert found.forward == pytest.approx(measured.forward, rel=0.1)
