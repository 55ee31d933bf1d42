"""Each training variable has its effect, and what users rely on holds: voices stay apart, cloning survives, overfitting
stops by itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from job import pipeline
from job.config import settings as variables
from job.core.errors import BadInput
from job.dataset.prepared import read_split
from job.loss.layout import SpecialIds
from job.loss.rows import Rows
from job.train import progressive
from job.train.order import admitted

QUICK = {
    "PRESET": "demo",
    "DEVICE": "cpu",
    "MAX_STEPS": "4",
    "LOGGING_STEPS": "1",
    "MAX_TRAIN_SAMPLES": "6",
    "BATCH_SIZE": "2",
    "EXPORT": "merged",
    "WARMUP_STEPS": "0",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Six prepared clips; every run of this module trains on them."""
    work = tmp_path_factory.mktemp("modes")
    settings = variables.load({**QUICK, "WORK_DIR": str(work)})
    pipeline.run(settings, "fetch", "prepare")
    return work


def train(prepared, tmp_path, **values):
    """Train on the prepared data into `tmp_path`; returns (settings, training log, result)."""
    from job.train import run

    settings = variables.load({**QUICK, "WORK_DIR": str(prepared), "OUTPUT_DIR": str(tmp_path), **values})
    result = run(settings)
    log = [json.loads(line) for line in settings.paths.training_log.read_text().splitlines()]
    return settings, log, result


def column(log, name):
    return [line[name] for line in log]


@pytest.mark.slow
def test_learning_rate_schedules(prepared, tmp_path):
    """LEARNING_RATE, WARMUP_STEPS, LR_SCHEDULER and MIN_LR_RATIO shape the logged rate."""
    shapes = {}
    for name, values in {
        "cosine": {},
        "floor": {"MIN_LR_RATIO": "0.5"},
        "linear": {"LR_SCHEDULER": "linear"},
        "constant": {"LR_SCHEDULER": "constant"},
        "warm": {"LR_SCHEDULER": "constant", "WARMUP_STEPS": "2"},
    }.items():
        _, log, _ = train(prepared, tmp_path / name, LEARNING_RATE="1e-4", MAX_STEPS="4", **values)
        shapes[name] = [round(rate * 1e4, 4) for rate in column(log, "learning_rate")]
    assert shapes["cosine"] == [1.0, 0.8536, 0.5, 0.1464]
    assert shapes["floor"] == [1.0, 0.9268, 0.75, 0.5732]
    assert shapes["linear"] == [1.0, 0.75, 0.5, 0.25]
    assert shapes["constant"] == [1.0] * 4
    assert shapes["warm"] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.slow
def test_a_run_that_diverges_ends_after_a_few_steps_and_says_why(prepared, tmp_path, capsys):
    """Whatever is read late, or only for a line of the log: no step is taken for a loss that is not a number."""
    from job.core.errors import TrainingStopped

    with pytest.raises(TrainingStopped, match=r"loss is nan at step 6 \(5 in a row\): lower LEARNING_RATE"):
        train(prepared, tmp_path, LEARNING_RATE="1e30", LR_SCHEDULER="constant", MAX_STEPS="50", LOGGING_STEPS="50")
    said = capsys.readouterr()
    assert [f"step {step}: loss nan" in said.out + said.err for step in range(1, 8)] == [False, *[True] * 5, False]


@pytest.mark.slow
def test_epochs_batches_and_accumulation_count_the_steps(prepared, tmp_path):
    """NUM_EPOCHS, BATCH_SIZE, TOKENS_PER_BATCH and GRADIENT_ACCUMULATION_STEPS: steps are rows over clips a step."""
    from job.train import run

    cases = [
        ({"batch_size": 2}, 6),  # 6 rows / 2 x 2 epochs
        ({"batch_size": 3}, 4),
        ({"batch_size": 2, "gradient_accumulation_steps": 3}, 2),
        ({"tokens_per_batch": 100_000}, 2),  # one batch holds everything
    ]
    for number, (values, steps) in enumerate(cases):
        loaded = variables.load({**QUICK, "WORK_DIR": str(prepared), "OUTPUT_DIR": str(tmp_path / str(number))})
        assert run(loaded.model_copy(update={"max_steps": None, "num_epochs": 2, **values}))["steps"] == steps


def test_accumulated_batches_weigh_as_one(prepared, tmp_path):
    """Two batches of three accumulated give the gradient of one of six: terms weigh alike, whatever their batch."""
    _, one, _ = train(prepared, tmp_path / "one", BATCH_SIZE="6", MAX_STEPS="1")
    _, two, _ = train(prepared, tmp_path / "two", BATCH_SIZE="3", GRAD_ACCUM="2", MAX_STEPS="1")
    for name in ("loss", "talker_loss", "sub_talker_loss", "grad_norm"):
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-4)


@pytest.mark.slow
def test_clipping_seed_and_weights(prepared, tmp_path):
    """MAX_GRAD_NORM, SEED, SUB_TALKER_LOSS_WEIGHT and WEIGHT_DECAY each change the run; the same settings do not."""
    base = train(prepared, tmp_path / "a")[1]
    again = train(prepared, tmp_path / "b")[1]
    assert column(base, "loss") == column(again, "loss")
    for name, values in {
        "clip": {"MAX_GRAD_NORM": "1e-4"},
        "seed": {"SEED": "7"},
        "decay": {"WEIGHT_DECAY": "50"},
        "frames": {"SUB_TALKER_FRAME_FRACTION": "0.3"},
    }.items():
        assert column(train(prepared, tmp_path / name, **values)[1], "loss") != column(base, "loss"), name
    weighted = train(prepared, tmp_path / "weight", SUB_TALKER_LOSS_WEIGHT="0.2")[1]
    assert weighted[0]["loss"] == pytest.approx(base[0]["talker_loss"] + 0.2 * base[0]["sub_talker_loss"], rel=1e-6)


@pytest.mark.slow
def test_the_same_with_less_memory(prepared, tmp_path):
    """GRADIENT_CHECKPOINTING and ATTN_IMPLEMENTATION change where the time goes, not the loss; fused AdamW is AdamW."""
    base = column(train(prepared, tmp_path / "base")[1], "loss")
    for name, values in {
        "checkpointing": {"GRADIENT_CHECKPOINTING": "true"},
        "selective": {"GRADIENT_CHECKPOINTING": "selective"},
        "eager": {"ATTN_IMPLEMENTATION": "eager"},
        "not fused": {"OPTIMIZER": "adamw"},
    }.items():
        assert column(train(prepared, tmp_path / name, **values)[1], "loss") == pytest.approx(base, rel=1e-3), name


@pytest.mark.slow
def test_bf16_autocast_trains(prepared, tmp_path):
    """MIXED_PRECISION=bf16: close to fp32, saved in bf16, for full training and for adapters."""
    from safetensors import safe_open

    fp32 = train(prepared, tmp_path / "fp32")[1]
    for mode in ("full", "lora"):
        settings, log, _ = train(prepared, tmp_path / mode, MIXED_PRECISION="bf16", TRAIN_MODE=mode)
        assert log[0]["loss"] == pytest.approx(fp32[0]["loss"], rel=0.02)
        with safe_open(settings.paths.best / "model.safetensors", "pt") as weights:
            assert weights.get_slice("talker.codec_head.weight").get_dtype() == "BF16"


def test_what_cannot_run_here_is_refused_in_one_line(prepared, tmp_path):
    """And neither computed as something else without a word, nor found out by a library's traceback."""
    for values, said in (
        ({"MIXED_PRECISION": "fp16"}, "MIXED_PRECISION=fp16: not supported on a CPU"),
        ({"ATTN_IMPLEMENTATION": "flash_attention_2"}, "ATTN_IMPLEMENTATION=flash_attention_2: .*; use ATTN"),
        ({"DEVICE": "mps"}, "DEVICE=mps: not available on this machine"),
        ({"SUB_TALKER_LOSS_WEIGHT": "inf"}, "SUB_TALKER_LOSS_WEIGHT='inf'"),
    ):
        if values == {"DEVICE": "mps"} and torch.backends.mps.is_available():
            continue
        with pytest.raises(BadInput, match=said):
            train(prepared, tmp_path, **values)


def test_steps_in_which_no_frame_has_its_turn(prepared, tmp_path):
    """A small share of few frames, with nothing else trained: such steps change nothing, and the others train."""
    _, log, _ = train(
        prepared, tmp_path, PROGRESSIVE_STAGES="sub_talker", SUB_TALKER_FRAME_FRACTION="0.05", BATCH_SIZE="1",
        MAX_STEPS="12", TRAIN_MODE="lora",
    )  # fmt: skip
    norms = column(log, "grad_norm")
    assert min(norms) == 0 < max(norms)


@pytest.mark.slow
def test_stages_that_the_run_does_not_reach_are_said(prepared, tmp_path, capsys):
    """PROGRESSIVE_STAGES of more epochs than there are would train less than was asked for."""
    few = {"MAX_STEPS": "2", "BATCH_SIZE": "6"}
    train(prepared, tmp_path, PROGRESSIVE_STAGES="text_projection:2|all", **few)
    assert "the last of PROGRESSIVE_STAGES begins after 2 epochs" in capsys.readouterr().err
    train(prepared, tmp_path, PROGRESSIVE_STAGES="text_projection:1|all", **few)
    assert "the last of PROGRESSIVE_STAGES" not in capsys.readouterr().err


def test_target_loss_stops_the_run(prepared, tmp_path):
    """TARGET_LOSS: the run ends at the first evaluation below it."""
    _, _, result = train(prepared, tmp_path, TARGET_LOSS="1000", MAX_STEPS="50", EVAL_STEPS="3")
    assert result["steps"] == 3


@pytest.mark.slow
def test_progressive_stages_train_their_parts_only(prepared, tmp_path):
    """PROGRESSIVE_STAGES=text_projection:1|all: in the first epoch nothing but the text projection moves."""
    from safetensors.torch import load_file

    before = load_file(variables_base() / "model.safetensors")
    settings, _, _ = train(
        prepared, tmp_path, PROGRESSIVE_STAGES="text_projection:1|all", BATCH_SIZE="6", MAX_STEPS="1", EVAL_STEPS="1"
    )
    after = load_file(settings.paths.best / "model.safetensors")
    moved = {n for n, t in after.items() if not torch.equal(t.float(), before[n].float())}
    moved.discard("talker.model.codec_embedding.weight")  # the speakers' rows
    assert moved
    assert all(".text_projection." in name for name in moved)
    settings, _, _ = train(
        prepared, tmp_path / "2", PROGRESSIVE_STAGES="text_projection:1|all", BATCH_SIZE="6", MAX_STEPS="2"
    )
    after = load_file(settings.paths.last / "model.safetensors")
    assert not torch.equal(after["talker.codec_head.weight"].float(), before["talker.codec_head.weight"].float())


def test_a_stage_that_trains_nothing_is_refused_before_the_first_step(prepared, tmp_path):
    """Not in the epoch it would begin with, hours later: LoRA has no adapter on the embeddings."""
    stages = "talker:1|embeddings:1|all"
    with pytest.raises(BadInput, match=r"PROGRESSIVE_STAGES: nothing of embeddings is trained"):
        train(prepared, tmp_path, PROGRESSIVE_STAGES=stages, TRAIN_MODE="lora", MAX_STEPS="1")
    assert not (tmp_path / "training_log.jsonl").exists()


def variables_base():
    from job.demo.cached_base import cached_base

    return cached_base()


@pytest.mark.parametrize(
    "value", ["nothing:2|all", "talker:²|all", "talker|all", "talker:0|all", "talker:x|all", "talker+wings:1|all"]
)
def test_progressive_stages_that_make_no_sense(value):
    with pytest.raises(BadInput, match="PROGRESSIVE_STAGES"):
        progressive.parse(value)


class Lengths:
    def __init__(self, lengths):
        self.lengths = lengths

    def __len__(self):
        return len(self.lengths)

    def length(self, row):
        return self.lengths[row]


def test_curriculum():
    """CURRICULUM=length admits the shortest first, source those that stand first; from half of the run on, all."""
    rows = Lengths([50, 10, 40, 20, 60, 30])
    assert admitted(rows, "length", 0.0).tolist() == [1, 3]
    assert admitted(rows, "length", 0.3).tolist() == [1, 2, 3, 5]
    assert admitted(rows, "source", 0.0).tolist() == [0, 1]
    for share, curriculum in ((0.5, "length"), (0.9, "source"), (0.0, None)):
        assert admitted(rows, curriculum, share).tolist() == list(range(6))


def rows_of(prepared, **values):
    from qwen_tts import Qwen3TTSModel

    table = read_split(variables.load({**QUICK, "WORK_DIR": str(prepared)}).paths, "train")
    tts = Qwen3TTSModel.from_pretrained(str(variables_base()))
    ids = SpecialIds.from_config(tts.model.config.to_dict())
    vectors = {name: np.zeros(64, dtype=np.float32) for name in table["speaker"].to_pylist()}
    return Rows(table, ids, lambda t: tts.processor.tokenizer(t)["input_ids"] if t else [], vectors, **values), table


def test_icl_fraction(prepared):
    """ICL_FRACTION: that share of visits clones from another clip of the speaker; given frames are not predicted."""
    rows, table = rows_of(prepared, text_layout="non_streaming", icl_fraction=0.4, seed=3)
    variants = [(row, rows.variant(row, visit)) for row in range(len(rows)) for visit in range(200)]
    cloned = [(row, v) for row, v in variants if v.reference is not None]
    assert 0.36 < len(cloned) / len(variants) < 0.44
    speakers = table["speaker"].to_pylist()
    assert all(v.reference != row and speakers[v.reference] == speakers[row] and v.streaming for row, v in cloned)
    assert len({v.reference for _, v in cloned}) > 2
    row, variant = cloned[0]
    sequence = rows.sequence(row, variant)
    assert sequence.first_target == rows.frames[variant.reference]
    assert (sequence.labels >= 0).sum() == rows.frames[row] + 1
    assert rows.variant(row, 5) == rows.variant(row, 5)


def test_icl_fraction_without_a_second_clip_is_noticed(prepared):
    """A share of nothing: with one clip a speaker there is none to be cloned from."""
    rows, table = rows_of(prepared, text_layout="streaming", icl_fraction=1.0)
    assert rows.clones()
    vectors = {name: np.zeros(64, dtype=np.float32) for name in table["speaker"].to_pylist()}
    alone = Rows(table.slice(0, 1), rows._ids, tokenized, vectors, text_layout="streaming", icl_fraction=1.0)
    assert not alone.clones()


def tokenized(texts):
    return [list(range(20, 33)) for _ in texts]


def test_mixed_layouts_and_languages_take_turns(prepared):
    """TEXT_LAYOUT=mixed and named languages: four visits in a row go through all combinations."""
    rows, table = rows_of(prepared, text_layout="mixed")
    assert table["language"].to_pylist()[0] != "auto"
    for row in range(len(rows)):
        seen = {(v.streaming, v.named_language) for v in (rows.variant(row, visit) for visit in range(4))}
        assert len(seen) == 4


def test_one_book_and_no_sub_talker(tiny_base):
    """A configuration with a single codebook a frame (as at 25 Hz): the talker's loss is trained and there is no
    sub-talker term."""
    from qwen_tts.core.models.configuration_qwen3_tts import Qwen3TTSConfig
    from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSForConditionalGeneration

    from job.loss.batch import collate
    from job.loss.layout import build
    from tests.train.trained import objective_of

    raw = json.loads((tiny_base / "config.json").read_text())
    raw["talker_config"]["num_code_groups"] = 1
    raw["talker_config"]["code_predictor_config"]["num_code_groups"] = 1
    model = Qwen3TTSForConditionalGeneration(Qwen3TTSConfig(**raw))
    ids = SpecialIds.from_config(raw)
    frames = np.arange(7, dtype=np.int16)[:, None]
    text = np.arange(20, 33)
    batch = collate([build(ids, text, frames, streaming=False)], [np.zeros(64, dtype=np.float32)])
    losses = objective_of(model)(batch)
    assert losses.talker_terms == 8
    assert losses.sub_talker_terms == 0
    assert float(losses.sub_talker) == 0.0
    losses.talker.backward()
    assert model.talker.codec_head.weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_an_overfit_run_stops_by_itself_and_best_is_an_earlier_checkpoint(tmp_path):
    """MAX_STEPS far too high with held-out rows: validation gets worse, the run ends, and best is from before."""
    settings = variables.load(
        {
            **QUICK,
            "MAX_TRAIN_SAMPLES": "12",
            "VALIDATION_FRACTION": "0.34",
            "BATCH_SIZE": "8",
            "MAX_STEPS": "100000",
            "EVAL_STEPS": "6",
            "PROBE_SENTENCES": "0",  # by the loss alone
            "LEARNING_RATE": "3e-3",
            "LR_SCHEDULER": "constant",
            "WORK_DIR": str(tmp_path),
        }
    )
    pipeline.run(settings, "fetch", "train")
    losses = [json.loads(line) for line in settings.paths.validation_log.read_text().splitlines()]
    assert losses[0]["split"] == "validation"
    assert losses[-1]["step"] < 600
    best = json.loads((settings.paths.best / "training_state.json").read_text())
    assert best["step"] < losses[-1]["step"]
    assert best["loss"] == min(line["loss"] for line in losses)


@pytest.mark.slow
def test_two_voices_stay_apart(tmp_path):
    """Two speakers say the same text differently: each is recited with the right name, and not with the other's."""
    from job.demo import manifest
    from job.evaluate.recite import recite

    clips = [next(r for r in manifest() if r["speaker"] == s and stem(r) == n) for s, n in CHOSEN]
    texts = ["The same words.", "And again."]
    rows = [{"audio": c["audio"], "text": texts[i % 2], "speaker": c["speaker"].upper()} for i, c in enumerate(clips)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    settings = variables.load(
        {
            **QUICK,
            "TRAIN_JSONL": str(path),
            "BATCH_SIZE": "4",
            "MAX_STEPS": "150",
            "LOGGING_STEPS": "50",
            "LEARNING_RATE": "3e-3",
            "WORK_DIR": str(tmp_path / "w"),
        }
    )
    pipeline.run(settings, "fetch", "train")
    said = read_split(settings.paths, "train").to_pylist()
    said = [{**row, "codes": np.asarray(row["codes"], dtype=np.int16)} for row in said]
    right = recite(settings.paths.best, said, device=torch.device("cpu"))
    assert min(r.match for r in right) >= 0.99
    assert all(r.right_stop for r in right)
    names = sorted({row["speaker"] for row in said})
    swapped = [{**row, "speaker": names[1 - names.index(row["speaker"])]} for row in said]
    wrong = recite(settings.paths.best, swapped, device=torch.device("cpu"))
    assert max(r.match for r in wrong) < 0.5


CHOSEN = (("ada", "en-01"), ("ada", "en-03"), ("emil", "de-01"), ("emil", "de-04"))


def stem(row):
    from pathlib import Path

    return Path(row["audio"]).stem
