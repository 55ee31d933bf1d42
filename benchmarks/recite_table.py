"""Reciting in every mode: train, then let stock qwen_tts say the training sentences greedily and compare the codes.

One JSON line a cell: (full, lora, layers) x (non-streaming, streaming) x (Auto, named, new language), two speakers,
half of the rows with an instruction. `lora` starts from a base that was first trained on other sentences, as a real
base has been; the others start from random weights.

    python benchmarks/recite_table.py [--modes full,lora,layers] [--work DIR]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from job import demo, pipeline  # noqa: E402
from job.config import settings as variables  # noqa: E402

MODES = ("full", "lora", "layers")
LAYOUTS = ("non_streaming", "streaming")
#: Language of the rows by their place among a speaker's: Auto, one the base knows, one it does not.
LANGUAGES = ("auto", "english", "hausa")
INSTRUCTION = "Speak slowly and clearly."

COMMON = {
    "DEVICE": "cpu",
    "MIXED_PRECISION": "no",
    "BATCH_SIZE": "8",
    "LEARNING_RATE": "3e-3",
    "WARMUP_STEPS": "10",
    "WEIGHT_DECAY": "0",
    "SUB_TALKER_LOSS_WEIGHT": "1",
    "VALIDATION_FRACTION": "0",
    "SPEAKER_NAME": "unused",
    "RESUME": "never",
    "EXPORT": "merged",
}
STEPS = {"full": 160, "lora": 200, "layers": 200}
EXTRA = {
    "full": {},
    "lora": {"EXPORT": "both"},
    "layers": {"REPLACE_LAST_N_LAYERS": "2", "ADD_NEW_LAYERS": "1"},
}


def rows(which: slice) -> list[dict[str, Any]]:
    """The embedded clips `which` of each speaker, with languages and instructions dealt out."""
    chosen: list[dict[str, Any]] = []
    for speaker in sorted({row["speaker"] for row in demo.manifest()}):
        mine = [row for row in demo.manifest() if row["speaker"] == speaker][which]
        for number, row in enumerate(mine):
            language = LANGUAGES[number % len(LANGUAGES)]
            instruct = INSTRUCTION if (number + len(chosen)) % 2 else None
            chosen.append({**row, "language": language, "instruct": instruct})
    return chosen


def run(work: Path, manifest: list[dict[str, Any]], **values: str) -> variables.Settings:
    """Train on `manifest`; returns the settings of the run."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in manifest), encoding="utf-8")
    settings = variables.load({**COMMON, "TRAIN_JSONL": str(path), "WORK_DIR": str(work), **values})
    pipeline.run(settings, "fetch", "train")
    return settings


def pretrained(work: Path) -> Path:
    """A base that knows how to say other sentences, in both layouts and all three kinds of language."""
    from job.model.voices import cloning_model

    target = work / "base"
    if not target.exists():
        settings = run(
            work / "pretraining",
            rows(slice(3, None)),
            INIT_MODEL_PATH="demo",
            TRAIN_MODE="full",
            TEXT_LAYOUT="mixed",
            MAX_STEPS="160",
        )
        cloning_model(settings.paths.best, target)
    return target


def table(work: Path, modes: tuple[str, ...] = MODES, layouts: tuple[str, ...] = LAYOUTS) -> list[dict[str, Any]]:
    """Every cell: mode, layout, language, rows, share of codes recited, sentences that stopped right."""
    import numpy as np
    import torch

    from job.dataset.prepared import read_split
    from job.evaluate.recite import recite, total

    cells = []
    for mode in modes:
        base = "demo" if mode != "lora" else str(pretrained(work))
        for layout in layouts:
            settings = run(
                work / f"{mode}-{layout}",
                rows(slice(0, 3)),
                INIT_MODEL_PATH=base,
                TRAIN_MODE=mode,
                TEXT_LAYOUT=layout,
                MAX_STEPS=str(STEPS[mode]),
                **EXTRA[mode],
            )
            said = read_split(settings.paths, "train").to_pylist()
            said = [{**row, "codes": np.asarray(row["codes"], dtype=np.int16)} for row in said]
            recitals = recite(settings.paths.best, said, device=torch.device("cpu"), layout=layout)
            for language in LANGUAGES:
                part = [one for one, row in zip(recitals, said, strict=True) if row["language"] == language]
                summed = total(part)
                cells.append(
                    {
                        "case": "recite",
                        "mode": mode,
                        "layout": layout,
                        "language": language,
                        "sentences": summed.rows,
                        "codes": round(summed.match, 5),
                        "right_stops": summed.right_stops,
                        "steps": STEPS[mode],
                    }
                )
                print(json.dumps(cells[-1]), flush=True)
    return cells


def main() -> None:
    """Print the table as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        table(options.work or Path(temporary), tuple(options.modes.split(",")))


if __name__ == "__main__":
    main()
