"""A finished run to publish: real model files, the logs and the summary that the stages before would have left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from job.core import files


@pytest.fixture
def work(tmp_path: Path, tiny_base: Path) -> Path:
    """A work directory after training, with things in it that must never be published."""
    work = tmp_path / "work"
    best = work / "output" / "best"
    shutil.copytree(tiny_base, best)
    config = files.read_json(best / "config.json")
    config["tts_model_type"] = "custom_voice"
    config["talker_config"]["spk_id"] = {"my_voice": 3000}
    config["talker_config"]["spk_is_dialect"] = {"my_voice": False}
    files.write_json(best / "config.json", config)
    files.write_json(best / "training_state.json", {"step": 40, "loss": 1.25, "split": "validation"})
    (best / "optimizer.pt").write_bytes(b"momentum")
    (best / ".cache").mkdir()
    (best / ".cache" / "notes.json").write_text("{}")
    (best / ".model.safetensors.partial").write_bytes(b"half")
    (best / "console_log.txt").write_text("a log")
    (best / "speech_tokenizer" / "debug.log").write_text("a log")
    rows = [{"step": s, "loss": 5.0 - s / 10, "talker_loss": 4.0, "sub_talker_loss": 2.0} for s in (10, 20, 40)]
    files.write_jsonl(work / "output" / "training_log.jsonl", rows)
    files.write_jsonl(work / "output" / "validation_log.jsonl", [{**rows[-1], "loss": 1.25, "split": "validation"}])
    summary = {
        "splits": {"train": {"rows": 90, "frames": 9000, "seconds": 720.0}, "validation": {"rows": 0, "seconds": 0}},
        "speakers": {"my_voice": {"rows": 90}},
        "languages": {"german": {"rows": 90, "known": True}},
    }
    (work / "data" / "prepared").mkdir(parents=True)
    (work / "data" / "prepared" / "summary.json").write_text(json.dumps(summary))
    return work
