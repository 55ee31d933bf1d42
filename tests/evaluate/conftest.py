"""Custom-voice checkpoints made from the tiny base, one that ends by itself and one that never does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job.config.paths import Paths
from job.core import files
from job.dataset.prepared import schema

SPEAKERS = {"my_voice": 3000, "other": 3001}
SENTENCES = ("Hello there.", "A longer sentence is this.", "Nine.")
CODEBOOKS = 16


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on several threads than on one, far slower on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def custom_voice(base: Path, directory: Path, end_scale: float = 1.0) -> Path:
    """A copy of the base as training would leave it: two speakers, no speaker encoder.

    `end_scale` multiplies the talker's output row of the end token, which decides how soon it stops.
    """
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, directory)
    config = json.loads((directory / "config.json").read_text())
    config["tts_model_type"] = "custom_voice"
    config["talker_config"]["spk_id"] = SPEAKERS
    config["talker_config"]["spk_is_dialect"] = dict.fromkeys(SPEAKERS, False)
    (directory / "config.json").write_text(json.dumps(config))
    weights = load_file(directory / "model.safetensors")
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("speaker_encoder.")}
    weights["talker.codec_head.weight"][config["talker_config"]["codec_eos_token_id"]] *= end_scale
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def recordings(directory: Path, sentences: Sequence[str] = SENTENCES, max_new_tokens: int = 60) -> list[dict[str, Any]]:
    """What a checkpoint says greedily, one sentence at a time, as rows of a data set it has learned by heart."""
    import torch

    from job.generation.recorder import GenerationRecorder, quiet_generation
    from job.model.loading import load_model

    model = load_model(directory, torch.device("cpu"), torch.float32)
    rows = []
    for sentence in sentences:
        with quiet_generation(), GenerationRecorder(model) as recorder:
            model.generate_custom_voice(
                sentence,
                speaker="my_voice",
                language="English",
                do_sample=False,
                subtalker_dosample=False,
                repetition_penalty=1.0,
                max_new_tokens=max_new_tokens,
            )
        (spoken,) = recorder.spoken
        row = {"text": sentence, "speaker": "my_voice", "language": "english", "codes": spoken.codes.tolist()}
        rows.append({**row, "ended": spoken.stopped_by_eos})
    return rows


@pytest.fixture(scope="session")
def endless(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: it babbles until it is cut off."""
    return custom_voice(tiny_base, tmp_path_factory.mktemp("endless") / "best", end_scale=0.0)


@pytest.fixture(scope="session")
def talking(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A checkpoint that ends every sentence by itself, and what it says."""
    for scale in (-8, -4, 4, -6, -3, 3, -12, 8):
        directory = custom_voice(tiny_base, tmp_path_factory.mktemp("talking") / "best", end_scale=scale)
        rows = recordings(directory)
        if all(row["ended"] and len(row["codes"]) > 2 for row in rows) and len({len(r["codes"]) for r in rows}) > 1:
            return directory, rows
    raise AssertionError("no weight of the end token makes the tiny model stop; look at job/demo/base.py")


def write_prepared(paths: Paths, rows: list[dict[str, Any]], split: str = "train", **summary: Any) -> None:
    """A prepared split as the prepare stage writes it."""
    blank = {"instruct": None, "seconds": 1.0, "codes": np.zeros((4, CODEBOOKS), dtype=np.int16).tolist()}
    full = [{"id": f"{split}-{n}", "language": "auto", **blank, **row} for n, row in enumerate(rows)]
    (paths.prepared / split).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(full, schema=schema(CODEBOOKS)), paths.prepared / split / "00000.parquet")
    files.write_json(paths.prepared / "summary.json", {"books": CODEBOOKS, "frames_per_character": 1.5, **summary})
