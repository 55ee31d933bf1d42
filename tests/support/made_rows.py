"""A prepared dataset with random codes for any base model, made in a moment: what `train` reads, without recordings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from job.dataset.prepared import schema

SPLITS = ("train", "validation")


def rows(
    base: Path,
    count: int,
    *,
    seed: int = 0,
    frames: Sequence[int] = (5, 20, 9, 13),
    texts: Sequence[str] = (),
    speakers: Sequence[str] = ("ada", "emil"),
    languages: Sequence[str] = ("english", "german"),
    instructions: Sequence[str | None] = (None,),
) -> list[dict[str, Any]]:
    """Rows that take turns in all that is given."""
    talker = json.loads((base / "config.json").read_text())["talker_config"]
    codebooks, size = talker["num_code_groups"], talker["code_predictor_config"]["vocab_size"]
    random = np.random.default_rng(seed)
    return [
        {
            "id": f"row-{seed}-{n}",
            "text": texts[n % len(texts)] if texts else f"This is sentence number {n}.",
            "speaker": speakers[n % len(speakers)],
            "language": languages[n % len(languages)],
            "instruct": instructions[n % len(instructions)],
            "seconds": frames[n % len(frames)] / 12.5,
            "codes": random.integers(0, size, (frames[n % len(frames)], codebooks)).tolist(),
        }
        for n in range(count)
    ]


def write(work: Path, base: Path, train: list[dict[str, Any]], validation: Sequence[dict[str, Any]] = ()) -> Path:
    """Write what prepare leaves in WORK_DIR: shards, x-vectors and the summary. Returns `work`."""
    talker = json.loads((base / "config.json").read_text())["talker_config"]
    codebooks, known = talker["num_code_groups"], {"auto", *talker["codec_language_id"]}
    prepared = work / "data" / "prepared"
    counts = {}
    for split, found in zip(SPLITS, (train, validation), strict=True):
        if found:
            (prepared / split).mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(list(found), schema=schema(codebooks)), prepared / split / "0.parquet")
            frames = sum(len(row["codes"]) for row in found)
            counts[split] = {"rows": len(found), "frames": frames, "seconds": frames / 12.5}
    every = [*train, *validation]
    made = torch.Generator().manual_seed(0)
    speakers = sorted({row["speaker"] for row in every})
    vectors = {name: 0.05 * torch.randn(talker["hidden_size"], generator=made) for name in speakers}
    save_file(vectors, prepared / "speakers.safetensors")
    summary = {
        "splits": counts,
        "books": codebooks,
        "codebook_size": talker["code_predictor_config"]["vocab_size"],
        "frame_rate": 12.5,
        "samples_per_frame": 1920,
        "sample_rate": 24000,
        "speakers": {name: {"rows": sum(row["speaker"] == name for row in train)} for name in speakers},
        "languages": {name: {"rows": 1, "known": name in known} for name in sorted({row["language"] for row in every})},
        "frames_per_character": 1.0,
    }
    (prepared / "summary.json").write_text(json.dumps(summary))
    return work
