"""Selection of the parameters to train: by TRAIN_MODE (`job.modes`), plus what is common to all modes.

The text embedding and the speaker encoder stay frozen; `text_projection` has its own group and learning rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from job.config.settings import Settings
from job.core.errors import BadInput
from job.modes import mode_of
from job.modes.lora import ADAPTER
from job.optimizer.groups import Group
from job.train import added_languages

#: Name of the codec embedding's group when only its rows for new languages are trained.
LANGUAGE_ROWS = "language_rows"


def adapt(model: Any, settings: Settings, language_rows: list[int] | None = None) -> list[Group]:
    """Freeze the model, add the mode's modules (such as adapters), and return the groups to train.

    Args:
        model: a `Qwen3TTSForConditionalGeneration`; changed in place.
        language_rows: rows of the codec embedding for new languages, which are trained in every mode.

    Raises:
        BadInput: the settings ask for more layers than the model has, or nothing would be trained.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    talker = model.talker
    mode_of(settings).select(model, settings)
    talker.text_projection.requires_grad_(settings.train_text_projection)
    codebooks = model.config.talker_config.num_code_groups
    if settings.sub_talker_loss_weight == 0 or codebooks < 2:  # without a gradient, only weight decay would change it
        for name, parameter in talker.code_predictor.named_parameters():
            if "codec_embedding" not in name:  # the talker reads these too
                parameter.requires_grad_(False)

    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    projection = [(n, p) for n, p in trained if ".text_projection." in n]
    rest = [(n, p) for n, p in trained if ".text_projection." not in n]
    groups = [
        Group(settings.train_mode, settings.learning_rate, rest),
        Group("text_projection", settings.text_projection_lr or settings.learning_rate, projection),
    ]
    table = model.talker.model.codec_embedding.weight
    if language_rows and not table.requires_grad:
        added_languages.train_only(table, language_rows)
        groups.append(Group(LANGUAGE_ROWS, settings.learning_rate, [("talker.model.codec_embedding.weight", table)]))
    groups = [g for g in groups if g.parameters]
    if not groups:
        raise BadInput("nothing is left to train: TRAIN_TEXT_PROJECTION=false and the mode freezes everything else")
    for group in groups:  # adapters and optimizer states are kept in fp32, whatever the frozen weights' dtype
        for _, parameter in group.parameters:
            parameter.data = parameter.data.float()
    return groups


def merged_weights(model: Any, scale: float = 1.0) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the model's weights under stock names with adapters merged in, without changing the model.

    W' = W + scale * (alpha / r) * B A, computed in fp32 (peft's `get_delta_weight`) and cast to W's dtype. One at a
    time: all together would take the memory of a second model on the GPU, and their fp32 deltas that of two more.
    """
    from peft.tuners.lora import LoraLayer

    adapted = {
        f"{name}.base_layer.weight": module for name, module in model.named_modules() if isinstance(module, LoraLayer)
    }
    for name, tensor in model.state_dict().items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        if name in adapted:
            delta = adapted[name].get_delta_weight(ADAPTER)  # type: ignore[attr-defined]  # of any adapter type
            tensor = (tensor.float() + scale * delta.float()).to(tensor.dtype)
        yield name.replace(".base_layer.", "."), tensor
