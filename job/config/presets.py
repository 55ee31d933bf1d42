"""Named sets of variables (`PRESET`), which the user's own variables override.

The figures come from what users of this model reported to work; see docs/recipes/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from job.config.variables import SOURCE_VARIABLES

#: How the demo hears its result: with a recogniser that knows the built-in clips through the built-in codec and nothing
#: else, beside the untrained base, which never ends by itself. The longest clip has 75 frames.
_HEARING: dict[str, Any] = {"asr_model": "demo", "check_words": "never", "baselines": True, "max_new_tokens": 80}

_ALEXANDRIA: dict[str, Any] = {
    "train_mode": "lora",
    "lora_r": 64,
    "lora_alpha": 128,
    "gradient_accumulation_steps": 4,
    "batch_size": 1,
}

PRESETS: dict[str, dict[str, Any]] = {
    # The tiny built-in model and the built-in clips, trained until it recites them.
    "demo": {
        "init_model_path": "demo",
        "work_dir": "work/demo",
        "train_mode": "full",
        "max_steps": 400,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "warmup_steps": 20,
        "sub_talker_loss_weight": 1.0,
        "sub_talker_frame_fraction": 1.0,  # from random weights to memorised data in as few steps as possible
        "weight_decay": 0.0,
        "validation_fraction": 0.0,
        "eval_steps": 100,
        "mixed_precision": "no",
        "greedy": True,
        **_HEARING,
    },
    # "Stable baseline" of the Norwegian project: small adapters, low rates, text_projection a little higher.
    "norwegian-stable": {
        "train_mode": "lora",
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.1,
        "lora_mlp": False,
        "learning_rate": 1e-5,
        "text_projection_lr": 4e-5,
        "sub_talker_loss_weight": 0.2,
        "batch_size": 4,
        "gradient_accumulation_steps": 4,
        "num_epochs": 15,
        "prepare_batch_size": 16,
        "mixed_precision": "bf16",
    },
    # Audiobook voices by number of clips: more data, fewer epochs.
    "alexandria-30": {**_ALEXANDRIA, "num_epochs": 12, "learning_rate": 5e-6},
    "alexandria-60": {**_ALEXANDRIA, "num_epochs": 7, "learning_rate": 3e-6},
    "alexandria-120": {**_ALEXANDRIA, "num_epochs": 3, "learning_rate": 2e-6},
    # A language that the base model does not have, about a thousand clips.
    "hausa-recommended": {
        "train_mode": "full",
        "batch_size": 1,
        "gradient_accumulation_steps": 16,
        "learning_rate": 3e-5,
        "num_epochs": 30,
        "warmup_steps": 500,
        "max_grad_norm": 0.5,
        "weight_decay": 0.01,
        "max_train_samples": 5000,
        "max_eval_samples": 500,
        "logging_steps": 5,
        "eval_steps": 100,
        "save_steps": 500,
    },
    # The settings of the model's own single-speaker instructions.
    "official": {"train_mode": "full", "batch_size": 32, "learning_rate": 2e-6, "num_epochs": 10},
}


def values(name: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's values by field, given those that the user chose.

    The demo's own recogniser comes without its surroundings where the user names another one, and is left out, with all
    that is there for it, where another model or other recordings are named.
    """
    found = dict(PRESETS[name])
    others = {"tokenizer_path", *(source.lower() for source in SOURCE_VARIABLES)}
    if chosen.keys() & others or chosen.get("init_model_path", "demo") != "demo":
        return {field: value for field, value in found.items() if field not in _HEARING or name != "demo"}
    if "asr_model" in chosen:
        found.pop("check_words", None)
    return found
