"""Settings of training that cannot be combined, and prepared data that does not fit the base model.

Needs no torch: `doctor`, `plan` and training itself refuse the same.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from job.config import optimizer_choice
from job.config.settings import Settings
from job.core.errors import BadInput
from job.dataset.prepared import read_summary, speaker_shapes
from job.model import voices
from job.model.embedding_rows import language_rows, speaker_rows
from job.model.loading import NO_FP16
from job.modes import mode_of


def check(settings: Settings) -> None:
    """Refuse settings that no base model and no machine makes possible.

    Raises:
        BadInput: naming the variable and the fix.
    """
    if settings.distributed == "fsdp" and not mode_of(settings).shardable:
        raise BadInput(f"DISTRIBUTED=fsdp: needs TRAIN_MODE=full; with TRAIN_MODE={settings.train_mode} use ddp")
    if settings.distributed == "fsdp" and settings.torch_compile:
        raise BadInput("TORCH_COMPILE=true: needs DISTRIBUTED=ddp; unset one of them")
    if settings.gradient_checkpointing == "selective" and settings.torch_compile:
        raise BadInput("GRADIENT_CHECKPOINTING=selective: not with TORCH_COMPILE; use true, or unset TORCH_COMPILE")
    on_a_gpu = settings.device == "auto" or settings.device.startswith("cuda")
    automatic = None if on_a_gpu else "no"  # a GPU's depends on which one it is
    optimizer_choice.check(settings, automatic if settings.mixed_precision == "auto" else settings.mixed_precision)
    if settings.mixed_precision == "fp16":
        raise BadInput(f"MIXED_PRECISION=fp16: {NO_FP16}")
    _check_start(settings)


def _check_start(settings: Settings) -> None:
    """Refuse to start from what the run replaces: stopped, it would begin anew from its own half-trained result, and
    each rerun would train on."""
    paths = settings.paths
    for name, value in (("INIT_MODEL_PATH", settings.init_model_path), ("RESUME", settings.resume)):
        if name == "RESUME" and value in ("auto", "never"):
            continue
        start = Path(value).expanduser().resolve()
        for replaced in (paths.best, paths.last, paths.candidates, paths.to_push, paths.earlier):
            if start.is_relative_to(replaced.resolve()):
                raise BadInput(
                    f"{name}={value}: this run would replace what it starts from; set another OUTPUT_DIR (it is "
                    f"{paths.output}), or name a copy"
                )


def check_data(settings: Settings, config: dict[str, Any]) -> list[str]:
    """Refuse prepared data that a base model cannot be trained on; returns the languages that are new to it.

    Args:
        config: the base model's config.json.

    Raises:
        BadInput: there is no prepared data, or it was made for a model with other codes, or has more speakers or
            languages than the model has room for, or a new language that EXPORT=adapter would leave out.
    """
    found, talker = read_summary(settings.paths), config["talker_config"]
    codebooks, size = talker["num_code_groups"], talker["code_predictor_config"]["vocab_size"]
    if int(found["books"]) != codebooks or int(found.get("codebook_size", 0)) > size:
        raise BadInput(
            f"INIT_MODEL_PATH={settings.init_model_path} has {codebooks} codebooks of {size} codes, and "
            f"{settings.paths.prepared} has {found['books']} of {found.get('codebook_size', size)}; run prepare again "
            "with this model"
        )
    width = int(talker["hidden_size"])
    for name, shape in speaker_shapes(settings.paths).items():
        if shape != (width,):
            raise BadInput(
                f"{settings.paths.speakers}: the x-vector of {name} has {math.prod(shape)} values, and the talker of "
                f"INIT_MODEL_PATH={settings.init_model_path} {width}; run prepare again with this model"
            )
    new = language_rows(config, sorted(found.get("languages", {})))
    speaker_rows(config, sorted(found.get("speakers", {})), new)
    voices.refuse_adapter_alone(new, (), settings)
    return sorted(new)


def check_rows(settings: Settings, tables: dict[str, pa.Table]) -> None:
    """Refuse prepared rows that are no samples; prepare makes none, but the data may come from elsewhere.

    Args:
        tables: the prepared splits.

    Raises:
        BadInput: there are no training rows, or one has no text, no frames, or a speaker without x-vector.
    """
    prepared, voiced = settings.paths.prepared, speaker_shapes(settings.paths)
    again = "prepare the data again"
    if len(tables["train"]) == 0:
        raise BadInput(f"{prepared} has no training rows; run prepare first")
    for split, table in tables.items():
        for column, counted in (("text", pc.utf8_length), ("codes", pc.list_value_length)):
            empty = pc.index(counted(table[column]), 0).as_py()
            if empty >= 0:
                name = table["id"][empty].as_py()
                raise BadInput(f"{prepared}: {split} row {empty + 1} ({name}) has no {column}; {again}")
        silent = sorted(set(table["speaker"].unique().to_pylist()) - voiced.keys())
        if silent:
            raise BadInput(f"{settings.paths.speakers} has no x-vector of {silent[0]}, a speaker of {split}; {again}")
