"""TRAIN_MODE=lora: low-rank adapters (by peft) on frozen weights."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from job.modes.train_mode import Shapes, TrainMode

if TYPE_CHECKING:
    import torch

    from job.config.settings import Settings

#: Peft's name for the model's only adapter.
ADAPTER = "default"


class Lora(TrainMode):
    """LORA_R, LORA_ALPHA, LORA_DROPOUT, LORA_MLP, LORA_SUB_TALKER, LORA_HEADS and EXPORT."""

    name = "lora"
    adapters = True
    card = ("lora_r", "lora_alpha", "lora_dropout", "train_text_projection")

    def select(self, model: Any, settings: Settings) -> None:
        """Inject adapters into the talker, without wrapping the model (it has no causal-LM interface to wrap)."""
        import torch
        from peft import inject_adapter_in_model

        config = self.adapter_config(model, settings)
        weights = [model.get_submodule(name).weight for name in config.target_modules]
        stored = [weight.data for weight in weights]
        for weight in weights:  # peft initialises in fp32, but would round to the weight's dtype
            weight.data = weight.new_empty(1, dtype=torch.float32).expand(weight.shape)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
        for weight, data in zip(weights, stored, strict=True):
            weight.data = data

    def trained_values(self, settings: Settings, shapes: Shapes) -> int:
        """Count adapter values: each adapted weight (E, D) has an A (r, D) and a B (E, r)."""
        return sum(settings.lora_r * (shape[0] + shape[1]) for shape in self.adapted(settings, shapes))

    def adapted(self, settings: Settings, shapes: Shapes) -> list[tuple[int, ...]]:
        """Select the adapted weights by the same names that peft gets."""
        pattern = _targets(settings)
        return [shape for name, shape in shapes.items() if pattern.fullmatch(name.removesuffix(".weight"))]

    def merged(self, settings: Settings) -> bool:
        """By EXPORT."""
        return settings.export != "adapter"

    def adapter(self, settings: Settings) -> bool:
        """By EXPORT."""
        return settings.export != "merged"

    def adapter_weights(self, model: Any) -> dict[str, torch.Tensor]:
        """Return the tensors under the names that `PeftModel.from_pretrained` expects."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(model, adapter_name=ADAPTER)
        return {f"base_model.model.{name}": tensor for name, tensor in state.items()}

    def adapter_config(self, model: Any, settings: Settings) -> Any:
        """Return the config, with the full names of the adapted layers as `target_modules`."""
        from peft import LoraConfig

        pattern = _targets(settings)
        return LoraConfig(
            r=settings.lora_r,
            lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # peft takes fractions too
            lora_dropout=settings.lora_dropout,
            target_modules=[name for name, _ in model.named_modules() if pattern.fullmatch(name)],
            bias="none",
        )


def _targets(settings: Settings) -> re.Pattern[str]:
    """Return a pattern for the names of layers that get adapters."""
    sub_talker = r"(code_predictor\.)?" if settings.lora_sub_talker else ""
    parts = r"self_attn\.[qkvo]_proj" + (r"|mlp\.(gate|up|down)_proj" if settings.lora_mlp else "")
    names = rf"talker\.{sub_talker}model\.layers\.\d+\.({parts})"
    if settings.lora_heads:
        names += r"|talker\.codec_head" + (r"|talker\.code_predictor\.lm_head\.\d+" if settings.lora_sub_talker else "")
    return re.compile(names)
