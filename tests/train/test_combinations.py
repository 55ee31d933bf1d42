"""Whatever is combined, doctor, plan and training say the same of it: it is refused in one line, or it trains."""

from __future__ import annotations

import itertools
import json
import random
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from qwen_tts import Qwen3TTSModel
from safetensors.torch import save_file

from tests.support import made_rows
from tests.support.commands import run_job


def values(work, base, **others):
    return {
        "WORK_DIR": work, "INIT_MODEL_PATH": base, "DATA_MODE": "none", "DEVICE": "cpu", "MAX_STEPS": 3,
        "BATCH_SIZE": 6, "LOGGING_STEPS": 1, "WARMUP_STEPS": 0, "LEARNING_RATE": "3e-3", "PROBE_SENTENCES": 0, **others,
    }  # fmt: skip


def refused_by_all(capsys, given, *said):
    for command in ("doctor", "plan", "train"):
        result = run_job(capsys, [command], given)
        assert (result.code, len(result.errors)) == (2, 1), command
        assert all(one in result.errors[0] for one in said), command


def made(tmp_path, base, **others):
    return made_rows.write(tmp_path / "work", base, made_rows.rows(base, 6, **others))


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"DISTRIBUTED": "fsdp", "TRAIN_MODE": "lora"}, "DISTRIBUTED=fsdp: needs TRAIN_MODE=full"),
        ({"DISTRIBUTED": "fsdp", "TRAIN_MODE": "full", "TORCH_COMPILE": "true"}, "TORCH_COMPILE=true: needs"),
        ({"GRADIENT_CHECKPOINTING": "selective", "TORCH_COMPILE": "true"}, "GRADIENT_CHECKPOINTING=selective"),
        ({"MASTER_WEIGHTS": "bf16_with_fp32", "OPTIMIZER": "adamw_8bit"}, "MASTER_WEIGHTS=bf16_with_fp32"),
        ({"MASTER_WEIGHTS": "bf16_stochastic", "MIXED_PRECISION": "no"}, "MASTER_WEIGHTS=bf16_stochastic"),
        ({"MASTER_WEIGHTS": "bf16_with_fp32", "OPTIMIZER": "adamw"}, "MIXED_PRECISION=auto gives no here"),
        ({"MIXED_PRECISION": "fp16"}, "MIXED_PRECISION=fp16"),
        ({"TRAIN_MODE": "layers", "REPLACE_LAST_N_LAYERS": 3}, "REPLACE_LAST_N_LAYERS=3: the talker has 2 layers"),
        ({"PROGRESSIVE_STAGES": "talker:0|all"}, "PROGRESSIVE_STAGES='talker:0|all'"),
        ({"PROGRESSIVE_STAGES": "talker:1|embeddings"}, "PROGRESSIVE_STAGES: nothing of embeddings is trained"),
        ({"PROGRESSIVE_STAGES": "sub_talker", "LORA_SUB_TALKER": "false"}, "PROGRESSIVE_STAGES: nothing of sub_talker"),
        ({"PROGRESSIVE_STAGES": "text_projection:1|all", "TRAIN_TEXT_PROJECTION": "false"}, "of text_projection"),
        ({"RESUME": "/nowhere"}, "RESUME=/nowhere"),
        ({"OUTPUT_DIR": "/a", "INIT_MODEL_PATH": "/a/best"}, "INIT_MODEL_PATH=/a/best: this run would replace"),
        ({"OUTPUT_DIR": "/a", "RESUME": "/a/last/adapter"}, "RESUME=/a/last/adapter: this run would replace"),
    ],
    ids=lambda given: "-".join(map(str, given.values())) if isinstance(given, dict) else "",
)  # fmt: skip
def test_what_is_refused_is_refused_by_all(tmp_path, tiny_base, capsys, others, said):
    """A command that passes what another one refuses costs hours, or an estimate for nothing."""
    given = values(made(tmp_path, tiny_base), tiny_base, **others)
    refused_by_all(capsys, given, said)
    assert not (tmp_path / "work" / "output" / "training_log.jsonl").exists()


def of_other(tmp_path, base, **changed):
    """Data for a model that differs in this from the base: what its config.json says is all that is read of it."""
    config = json.loads((base / "config.json").read_text())
    config["talker_config"].update(changed)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text(json.dumps(config))
    return made_rows.write(tmp_path / "work", tmp_path / "other", made_rows.rows(tmp_path / "other", 4))


def of_other_codes(tmp_path, base):
    return of_other(tmp_path, base, num_code_groups=2)


def of_other_width(tmp_path, base):
    return of_other(tmp_path, base, hidden_size=32)


def of_a_new_language(tmp_path, base):
    return made(tmp_path, base, languages=("norwegian",))


def of_too_many(tmp_path, base):
    speakers = [f"speaker {number}" for number in range(1030)]
    return made_rows.write(tmp_path / "work", base, made_rows.rows(base, 1030, frames=[2], speakers=speakers))


@pytest.mark.parametrize(
    ("data", "others", "said"),
    [
        (of_other_codes, {}, "has 16 codebooks of 2048 codes, and"),
        (of_other_width, {}, "the x-vector of ada has 32 values, and the talker"),
        (of_too_many, {}, "1030 new speakers, but the model has room for"),
        (of_a_new_language, {"EXPORT": "adapter"}, "EXPORT=adapter: norwegian"),
    ],
    ids=["codes", "width", "speakers", "language"],
)  # fmt: skip
def test_data_that_a_model_has_no_place_for_is_refused_by_all(tmp_path, tiny_base, capsys, data, others, said):
    """And not at the first checkpoint, after the steps that lead there."""
    given = values(data(tmp_path, tiny_base), tiny_base, **others)
    refused_by_all(capsys, given, said)
    assert not (tmp_path / "work" / "output" / "training_log.jsonl").exists()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"text": ""}, "train row 3 (row-0-2) has no text; prepare the data again"),
        ({"codes": []}, "train row 3 (row-0-2) has no codes; prepare the data again"),
        ({"speaker": "nobody"}, "has no x-vector of nobody, a speaker of train"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_prepared_rows_that_are_no_samples_are_named(tmp_path, tiny_base, capsys, broken, said):
    """Prepared data may have been made elsewhere; a traceback from within the layout names no row."""
    work = made(tmp_path, tiny_base)
    rows = made_rows.rows(tiny_base, 6)
    rows[2].update(broken)
    again = made_rows.write(tmp_path / "again", tiny_base, rows)
    (work / "data/prepared/train/0.parquet").write_bytes((again / "data/prepared/train/0.parquet").read_bytes())
    refused_by_all(capsys, values(work, tiny_base), said)


@pytest.mark.parametrize("counted", [True, False])
def test_prepared_data_without_a_row_to_train_on_is_refused_by_all(tmp_path, tiny_base, capsys, counted):
    """Data from elsewhere, filtered until nothing was left; whether or not its summary still counts the split."""
    work = made_rows.write(tmp_path / "work", tiny_base, made_rows.rows(tiny_base, 6), made_rows.rows(tiny_base, 2))
    path = work / "data/prepared/train/0.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    summary = work / "data/prepared/summary.json"
    found = json.loads(summary.read_text())
    found["splits"] = {**found["splits"], "train": {"rows": 0, "frames": 0, "seconds": 0.0}}
    if not counted:
        del found["splits"]["train"]
    summary.write_text(json.dumps(found))
    refused_by_all(capsys, values(work, tiny_base), f"{work / 'data/prepared'} has no training rows")


def test_embeddings_may_be_a_stage_where_a_language_is_new(tmp_path, tiny_base, capsys):
    """LoRA trains them then, so no command may refuse it; and `plan` counts what is trained."""
    work = made(tmp_path, tiny_base, languages=("norwegian", "english"))
    given = values(work, tiny_base, PROGRESSIVE_STAGES="embeddings:1|all", EXPORT="merged", NUM_EPOCHS=2)
    assert run_job(capsys, ["doctor"], given).code == 0
    planned = run_job(capsys, ["plan"], given)
    trained = run_job(capsys, ["train"], given)
    assert (planned.code, trained.code) == (0, 0), trained.err
    counts = json.loads((work / "state/train.json").read_text())["counts"]["trained_parameters"]
    assert counts["language_rows"] == 3072 * 64
    assert f"{sum(counts.values()) / 1e6:,.2f} M trained" in planned.out


@pytest.mark.parametrize(
    ("config", "shape", "said"),
    [
        ({"r": 8}, (16, 64), "the adapter has LORA_R=8 and LORA_ALPHA=32; set these"),
        ({"use_rslora": True}, (16, 64), "adapter_config.json sets use_rslora"),
        ({"alpha_pattern": {"codec_head": 64}}, (16, 64), "adapter_config.json sets alpha_pattern"),
        ({}, (16, 48), "talker.codec_head.lora_A.weight has shape (16, 48) where the model has (16, 64)"),
        (None, (16, 64), "adapter_config.json beside the adapter is missing or damaged"),
        ({"lora_alpha": None}, (16, 64), "adapter_config.json beside the adapter is missing or damaged"),
    ],
    ids=["rank", "scale", "scales", "width", "nothing", "no alpha"],
)
def test_an_adapter_that_means_something_else_here_is_refused_by_all(tmp_path, tiny_base, capsys, config, shape, said):
    """Peft's other scales would be taken for alpha / r without a word, so that the run began from another voice."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    name = "base_model.model.talker.codec_head.lora_{}.weight"
    tensors = {name.format("A"): torch.full(shape, 0.01), name.format("B"): torch.full((3072, 16), 0.01)}
    save_file(tensors, adapter / "adapter_model.safetensors")
    if config is not None:
        (adapter / "adapter_config.json").write_text(json.dumps({"r": 16, "lora_alpha": 32, **config}))
    given = values(made(tmp_path, tiny_base), tiny_base, RESUME=adapter, TRAIN_MODE="lora")
    refused_by_all(capsys, given, f"RESUME={adapter}: ", said)


@pytest.mark.parametrize(
    "extreme", [{"SEED": 2**63 - 1}, {"TOKENS_PER_BATCH": 10**20}], ids=lambda given: next(iter(given))
)
def test_the_largest_value_that_a_variable_takes_can_be_trained_with(tmp_path, tiny_base, capsys, extreme):
    """Libraries take smaller ones, and would say so in a traceback."""
    given = values(made(tmp_path, tiny_base), tiny_base, MAX_STEPS=1, **extreme)
    for command in ("plan", "train"):
        result = run_job(capsys, [command], given)
        assert result.code == 0, result.err


#: Values of each variable for the pairs below; each combination of two values of two variables is in one of them.
VARIED = {
    "TRAIN_MODE": ["lora", "full", "layers"],
    "MASTER_WEIGHTS": ["fp32", "bf16_with_fp32", "bf16_stochastic"],
    "OPTIMIZER": ["adamw", "adamw_fused", "adamw_8bit"],
    "GRADIENT_CHECKPOINTING": ["false", "true", "selective"],
    "SUB_TALKER_FRAME_FRACTION": ["1", "0.1"],
    "SUB_TALKER_LOSS_WEIGHT": ["0.3", "0"],
    "TOKENS_PER_BATCH": ["5", "100", "9000"],
    "EXPORT": ["merged", "both", "adapter"],
    "PROGRESSIVE_STAGES": ["", "text_projection:1|all", "talker+text_projection:1|all:1"],
    "CURRICULUM": ["", "length", "source"],
    "TEXT_LAYOUT": ["non_streaming", "streaming", "mixed"],
    "ICL_FRACTION": ["0", "0.5"],
    "PROBE_SENTENCES": ["0", "50"],
    "LORA_DROPOUT": ["0", "0.5"],
    "LORA_SUB_TALKER": ["true", "false"],
    "ADD_NEW_LAYERS": ["0", "2"],
    "FREEZE_ORIGINAL_LAYERS": ["true", "false"],
    "ATTN_IMPLEMENTATION": ["sdpa", "eager"],
    "MAX_GRAD_NORM": ["1", "0"],
    "LR_SCHEDULER": ["cosine", "constant"],
    "EVAL_STEPS": ["", "1"],
}


def pairs(varied):
    """Combinations that together have each pair of values of two variables (greedy; some 20 instead of millions)."""
    drawn = random.Random(0)
    missing = {
        frozenset({(one, a), (other, b)})
        for one, other in itertools.combinations(varied, 2)
        for a in varied[one]
        for b in varied[other]
    }
    while missing:
        chosen = dict(min(missing, key=sorted))
        names = [name for name in varied if name not in chosen]
        drawn.shuffle(names)
        for name in names:
            covered = [
                sum(frozenset({(name, value), other}) in missing for other in chosen.items()) for value in varied[name]
            ]
            best = [value for value, count in zip(varied[name], covered, strict=True) if count == max(covered)]
            chosen[name] = drawn.choice(best)
        missing -= {frozenset(two) for two in itertools.combinations(chosen.items(), 2)}
        yield chosen


def refused(given):
    """What must be refused of `VARIED`."""
    return given["OPTIMIZER"] == "adamw_8bit" and given["MASTER_WEIGHTS"] == "bf16_with_fp32"


@pytest.mark.slow
def test_each_pair_of_settings_trains_or_is_refused(tmp_path, tiny_base, capsys):
    """By all commands alike; what trains gives a loss that falls, as many steps as planned, and weights that load."""
    trained = 0
    for number, given in enumerate(pairs(VARIED)):
        work = made_rows.write(tmp_path / str(number), tiny_base, made_rows.rows(tiny_base, 4, frames=[4, 9, 6]))
        named = {name: value for name, value in given.items() if value}
        named = values(work, tiny_base, MIXED_PRECISION="bf16", NUM_EPOCHS=4, GRAD_ACCUM=4, **named)
        del named["MAX_STEPS"], named["BATCH_SIZE"]
        results = {command: run_job(capsys, [command], named) for command in ("doctor", "plan", "train")}
        wanted = {command: 2 if refused(given) else 0 for command in results}
        assert {command: result.code for command, result in results.items()} == wanted, (given, results)
        if refused(given):
            continue
        trained += 1
        lines = [json.loads(line) for line in (work / "output/training_log.jsonl").read_text().splitlines()]
        assert lines[-1]["loss"] < lines[0]["loss"], given
        assert f"{lines[-1]['step']} in total" in results["plan"].out, given
        if given["EXPORT"] != "adapter" or given["TRAIN_MODE"] != "lora":
            model = Qwen3TTSModel.from_pretrained(str(work / "output/best")).model
            assert all(torch.isfinite(weight).all() for weight in model.parameters()), given
        shutil.rmtree(work)
    assert trained > 10
