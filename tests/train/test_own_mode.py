"""A mode of training of one's own: one file and one call, and every stage that asks for the mode knows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from job import modes, pipeline
from job.config import settings as variables
from job.core.errors import BadInput
from job.estimate.parameters import parameter_counts
from job.publish.contents import check
from job.train import run
from tests.train.norms_mode import Norms

VALUES = {
    "PRESET": "demo", "DEVICE": "cpu", "TRAIN_MODE": "norms", "TRAIN_TEXT_PROJECTION": "false",
    "MAX_TRAIN_SAMPLES": "2",
    "BATCH_SIZE": "2", "MAX_STEPS": "2", "SAVE_STEPS": "1", "PROBE_SENTENCES": "0", "LEARNING_RATE": "1e-2",
    "LR_SCHEDULER": "constant", "WARMUP_STEPS": "0",
}  # fmt: skip


@pytest.fixture
def norms() -> Iterator[None]:
    modes.register(Norms())
    yield
    modes.unregister("norms")


def test_a_mode_that_is_registered_trains_saves_resumes_and_exports(norms: None, tmp_path: Path, capsys: Any):
    """Only norms move, the checkpoint is whole, what is counted is what is trained, and a restart ends the same."""
    from job.demo.cached_base import cached_base

    settings = variables.load({**VALUES, "WORK_DIR": str(tmp_path)})
    pipeline.run(settings, "fetch", "prepare")
    result = run(settings)
    best = settings.paths.best / "model.safetensors"
    ends = [load_file(best)]
    assert (settings.paths.output / "checkpoint-1").is_dir()
    capsys.readouterr()
    best.unlink()
    assert run(settings)["steps"] == 2
    assert "resuming from checkpoint-1" in capsys.readouterr().out
    ends.append(load_file(best))
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    base = load_file(cached_base() / "model.safetensors")
    moved = {name for name, tensor in ends[0].items() if not torch.equal(tensor.float(), base[name].float())}
    moved.discard("talker.model.codec_embedding.weight")  # the speaker's row
    assert moved and all("norm" in name for name in moved)
    assert result["trained_parameters"] == {"norms": parameter_counts(settings)[1]}
    assert check(settings.paths.best, settings) == []


def test_a_mode_that_is_not_registered_is_refused():
    with pytest.raises(BadInput, match="TRAIN_MODE='norms': input should be 'lora', 'full' or 'layers'"):
        variables.load(VALUES)


def test_what_a_mode_refuses_is_refused_in_the_first_minute(norms: None, tmp_path: Path):
    """Its own refusals, and starting from an adapter, which it has no place for."""
    from job.train import combinations

    settings = variables.load({**VALUES, "WORK_DIR": str(tmp_path), "LORA_MLP": "false"})
    with pytest.raises(BadInput, match="LORA_MLP"):
        modes.mode_of(settings).check(settings, layers=2)
    with pytest.raises(BadInput, match=r"RESUME=.* is an adapter; set TRAIN_MODE=lora"):
        modes.mode_of(settings).check_adapter(settings)
    with pytest.raises(BadInput, match="TRAIN_MODE=norms use ddp"):
        combinations.check(settings.model_copy(update={"distributed": "fsdp"}))
