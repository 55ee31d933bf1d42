"""docs/nightly.md: a night that goes on from last night's voice, by the variables as they stand on the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.packaging.test_docs import fences
from tests.support.commands import run_job

ROOT = Path(__file__).parent.parent
#: The blocks of variables on the page, by how the voice is trained.
MODES = ("full", "lora")


def add(folder: Path, *names: str) -> None:
    for name in names:
        shutil.copy(ROOT / "job" / "demo" / "clips" / f"{name}.flac", folder)
        (folder / f"{name}.txt").write_text(f"What {name} says here.")


def losses(output: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (output / "training_log.jsonl").read_text().splitlines()]


def speakers(checkpoint: Path) -> dict[str, list[float]]:
    """The rows by which a checkpoint's speakers are told apart."""
    rows = json.loads((checkpoint / "config.json").read_text())["talker_config"]["spk_id"]
    table = load_file(checkpoint / "model.safetensors")["talker.model.codec_embedding.weight"]
    return {name: table[row].tolist() for name, row in rows.items()}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_night_goes_on_from_last_night_s_voice(mode, tmp_path, monkeypatch, capsys):
    """It starts at last night's loss, not at the first night's, and keeps the speaker; a rerun has nothing to do."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "ada").mkdir(parents=True)
    add(tmp_path / "in" / "ada", "en-01", "en-02", "en-03")
    variables = {
        "PRESET": "demo", "TRAIN_MODE": mode, "DATA_DIR": "in", "WORK_DIR": "work", "OUTPUT_DIR": "voices/2026-11-30",
        "LANGUAGE": "English", "QUALITY_GATE": "off", "PROBE_SENTENCES": "0", "MAX_STEPS": "40", "EVAL_STEPS": "20",
        "LOGGING_STEPS": "1", "WARMUP_STEPS": "0", "DEVICE": "cpu", "REF_AUDIO_PATH": "in/ada/en-03.flac",
    }  # fmt: skip
    command = ["run", "--until", "validate"]
    result = run_job(capsys, command, variables)
    assert result.code == 0, result.err
    first, ada = losses(tmp_path / "voices/2026-11-30"), speakers(tmp_path / "voices/2026-11-30/best")

    add(tmp_path / "in" / "ada", "en-04")
    page = fences(ROOT / "docs" / "nightly.md", "env")[MODES.index(mode)]
    variables |= dict(line.split("=", 1) for line in page.splitlines())
    result = run_job(capsys, command, variables)
    assert result.code == 0, result.err
    assert "[prepare] done" in result.out
    tonight = tmp_path / "voices/2026-12-01"
    start = losses(tonight)[0]
    assert abs(start - first[-1]) < abs(start - first[0]), (first[0], first[-1], start)
    assert speakers(tonight / "best") == ada
    assert (tonight / "best" / "adapter").exists() == (mode == "lora")
    again = run_job(capsys, command, variables)
    assert again.code == 0 and again.out.count("nothing to do") == 5, again.out
