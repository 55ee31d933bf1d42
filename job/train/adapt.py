"""What is trained: everything (`full`), low-rank adapters (`lora`), or some layers (`layers`).

The text embedding and the speaker encoder stay as they are in every mode; `text_projection` has a group and a rate of
its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from job.config.settings import Settings
from job.core.errors import BadInput
from job.train import languages

ADAPTER = "default"
#: Name of the group that holds the codec embedding when only its rows of new languages are trained.
LANGUAGE_ROWS = "language_rows"
_ATTENTION = "q_proj|k_proj|v_proj|o_proj"
_MLP = "gate_proj|up_proj|down_proj"


@dataclass
class Group:
    """Parameters that share a learning rate. `parameters` are (name, tensor) pairs."""

    name: str
    rate: float
    parameters: list[tuple[str, nn.Parameter]]

    @property
    def size(self) -> int:
        """Number of trained values."""
        return sum(p.numel() for _, p in self.parameters)


def adapt(model: Any, settings: Settings, language_rows: list[int] | None = None) -> list[Group]:
    """Freeze, add what the mode adds, and return the groups to train.

    Args:
        model: a `Qwen3TTSForConditionalGeneration`; changed in place.
        language_rows: rows of the codec embedding that belong to new languages, and are trained in every mode.

    Raises:
        BadInput: the mode asks for more layers than the model has, or for nothing at all.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    talker = model.talker
    if settings.train_mode == "full":
        talker.requires_grad_(True)
        talker.model.text_embedding.requires_grad_(False)
    elif settings.train_mode == "lora":
        _inject(model, settings)
    else:
        _change_layers(model, settings)
    talker.text_projection.requires_grad_(settings.train_text_projection)
    books = model.config.talker_config.num_code_groups
    if settings.sub_talker_loss_weight == 0 or books < 2:  # without a gradient, decay alone would change it
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
        languages.train_only(table, language_rows)
        groups.append(Group(LANGUAGE_ROWS, settings.learning_rate, [("talker.model.codec_embedding.weight", table)]))
    groups = [g for g in groups if g.parameters]
    if not groups:
        raise BadInput("nothing is left to train: TRAIN_TEXT_PROJECTION=false and the mode freezes everything else")
    for group in groups:  # adapters and optimizer states are kept in fp32, whatever the frozen weights are in
        for _, parameter in group.parameters:
            parameter.data = parameter.data.float()
    return groups


def _inject(model: Any, settings: Settings) -> None:
    """Put adapters into the talker, without a wrapper around the model (it has no causal-LM interface to wrap)."""
    from peft import inject_adapter_in_model

    config = lora_config(model, settings)
    weights = [model.get_submodule(name).weight for name in config.target_modules]
    stored = [weight.data for weight in weights]
    for weight in weights:  # peft draws in fp32, and would round what it has drawn to the type of the weight
        weight.data = weight.new_empty(1, dtype=torch.float32).expand(weight.shape)
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    for weight, data in zip(weights, stored, strict=True):
        weight.data = data


def lora_config(model: Any, settings: Settings) -> Any:
    """The `peft.LoraConfig` of the settings; its `target_modules` are the full names of the adapted layers."""
    import re

    from peft import LoraConfig

    parts = _ATTENTION + (f"|{_MLP}" if settings.lora_mlp else "")
    where = r"talker\.model\.layers" + (r"|talker\.code_predictor\.model\.layers" if settings.lora_sub_talker else "")
    layers = rf"({where})\.\d+\.(self_attn|mlp)\.({parts})"
    heads = r"talker\.codec_head" + (r"|talker\.code_predictor\.lm_head\.\d+" if settings.lora_sub_talker else "")
    pattern = re.compile(layers + (f"|{heads}" if settings.lora_heads else ""))
    targets = [name for name, _ in model.named_modules() if pattern.fullmatch(name)]
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # peft takes fractions too
        lora_dropout=settings.lora_dropout,
        target_modules=targets,
        bias="none",
    )


def _change_layers(model: Any, settings: Settings) -> None:
    """Start the last layers afresh, add layers that begin as identity, and freeze the other layers if asked to.

    Around the talker's layers everything is trained as in `full`: fresh layers speak through the head and the
    sub-talker, which have to follow them.
    """
    talker = model.talker
    talker.requires_grad_(True)
    talker.model.text_embedding.requires_grad_(False)
    layers = talker.model.layers
    replaced, added = settings.replace_last_n_layers, settings.add_new_layers
    if replaced > len(layers):
        raise BadInput(f"REPLACE_LAST_N_LAYERS={replaced}: the talker has {len(layers)} layers")
    layers.requires_grad_(not settings.freeze_original_layers)
    kind, config = type(layers[0]), layers[0].self_attn.config
    device = next(layers.parameters()).device
    for index in range(len(layers) - replaced, len(layers)):
        layers[index] = _fresh(kind, config, index, device)
    for _ in range(added):
        layer = _fresh(kind, config, len(layers), device)
        # Both branches of the residual stream start at zero: the model says what it said before the layer was added.
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
        layers.append(layer)
    for layer in list(layers)[len(layers) - replaced - added :] if replaced + added else []:
        layer.requires_grad_(True)
    model.config.talker_config.num_hidden_layers = talker.config.num_hidden_layers = len(layers)


def _fresh(kind: type[nn.Module], config: Any, index: int, device: torch.device) -> Any:
    """A decoder layer with weights drawn as the library initialises them: N(0, initializer_range), norms at one."""
    layer = kind(config, index)  # in fp32 and on the CPU: the same numbers are drawn for every device
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return layer.to(device)


def merged_weights(model: Any, scale: float = 1.0) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the model's weights under stock names, adapters added in, without touching the model.

    W' = W + scale * (alpha / r) * B A, computed in fp32 (peft's `get_delta_weight`) and cast to W's type. One at a
    time: all of them together would be a second model on the GPU, and their fp32 differences two more.
    """
    from peft.tuners.lora import LoraLayer

    adapted = {
        f"{name}.base_layer.weight": module for name, module in model.named_modules() if isinstance(module, LoraLayer)
    }
    for name, tensor in model.state_dict().items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        if name in adapted:
            delta = adapted[name].get_delta_weight(ADAPTER)  # type: ignore[attr-defined]  # of every kind
            tensor = (tensor.float() + scale * delta.float()).to(tensor.dtype)
        yield name.replace(".base_layer.", "."), tensor


def adapter_weights(model: Any) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names that `PeftModel.from_pretrained` looks for."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=ADAPTER)
    return {f"base_model.model.{name}": tensor for name, tensor in state.items()}
