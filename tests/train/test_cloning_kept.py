"""Fine-tuning a voice must not take cloning away: with ICL_FRACTION the model still clones what it never trained on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from job import demo, pipeline
from job.config import settings as variables
from job.dataset.prepared import read_speakers, read_split
from job.loss import layout
from job.loss.batch import collate
from job.loss.layout import Reference, SpecialIds, build
from job.model.loading import load_model
from job.model.voices import cloning_model
from tests.train.trained import objective_of

pytestmark = pytest.mark.slow

COMMON = {
    "DEVICE": "cpu",
    "SPEAKER_NAME": "unused",
    "VALIDATION_FRACTION": "0",
    "BATCH_SIZE": "8",
    "EXPORT": "merged",
    "LOGGING_STEPS": "50",
}


def run(work, rows, **values):
    work.mkdir(parents=True, exist_ok=True)
    (work / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    settings = variables.load({**COMMON, "TRAIN_JSONL": str(work / "rows.jsonl"), "WORK_DIR": str(work), **values})
    pipeline.run(settings, "fetch", "train")
    return settings


def log_likelihoods(model_directory, table, vectors, row, reference_row):
    """Mean log-likelihood a code of one clip, cloned in context (text beside the frames) and by x-vector."""
    tts = load_model(model_directory, torch.device("cpu"), torch.float32)
    ids = SpecialIds.from_config(tts.model.config.to_dict())
    data = table.to_pylist()

    def tokens(string):
        return tts.processor(text=string, return_tensors="np")["input_ids"][0]

    def frames(number):
        return np.asarray(data[number]["codes"], dtype=np.int16)

    found = {}
    reference = Reference(tokens(layout.reference_template(data[reference_row]["text"])), frames(reference_row))
    for name, given in (("in_context", reference), ("x_vector", None)):
        sequence = build(
            ids, tokens(layout.text_template(data[row]["text"])), frames(row), streaming=True, reference=given
        )
        with torch.no_grad():
            losses = objective_of(tts.model)(collate([sequence], [vectors[data[row]["speaker"]].numpy()]))
        found[name] = -float(losses.talker + losses.sub_talker) / (losses.talker_terms + losses.sub_talker_terms)
    return found


def test_cloning_keeps_the_bases_behaviour(tmp_path):
    """100 steps of LoRA on one voice with ICL_FRACTION=0.3: the log-likelihood of a held-out clip of another voice,
    cloned in context and by x-vector, is not worse than the base's by more than 2 %."""
    clips = demo.manifest()
    emil = [row for row in clips if row["speaker"] == "emil"]
    ada = [row for row in clips if row["speaker"] == "ada"]
    held_out, others = emil[:2], emil[2:]
    # A base that clones: trained on a voice (not on the held-out clips) in context and by x-vector.
    first = run(
        tmp_path / "base",
        others + ada[4:],
        INIT_MODEL_PATH="demo",
        TRAIN_MODE="full",
        TEXT_LAYOUT="streaming",
        ICL_FRACTION="0.5",
        MAX_STEPS="40",
        LEARNING_RATE="2e-3",
    )
    base = tmp_path / "cloning-base"
    cloning_model(first.paths.best, base)

    tuned = run(
        tmp_path / "tuned",
        ada[:4],
        INIT_MODEL_PATH=str(base),
        TRAIN_MODE="lora",
        TEXT_LAYOUT="mixed",
        ICL_FRACTION="0.3",
        MAX_STEPS="100",
        LEARNING_RATE="5e-5",
    )
    log = [json.loads(line) for line in tuned.paths.training_log.read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"], "the run must have learnt something for this to prove anything"
    result = tmp_path / "cloning-tuned"
    cloning_model(tuned.paths.best, result)

    look = run_prepare(tmp_path / "held-out", held_out)
    table, vectors = read_split(look.paths, "train"), read_speakers(look.paths)
    before = log_likelihoods(base, table, vectors, 0, 1)
    after = log_likelihoods(result, table, vectors, 0, 1)
    for way in before:
        assert after[way] >= before[way] * 1.02, (way, before, after)  # both are negative


def run_prepare(work, rows):
    work.mkdir()
    (work / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    values = {**COMMON, "TRAIN_JSONL": str(work / "rows.jsonl"), "WORK_DIR": str(work), "INIT_MODEL_PATH": "demo"}
    settings = variables.load(values)
    pipeline.run(settings, "fetch", "prepare")
    return settings
