"""TRAIN_MODE=layers: reinitialise or add some of the talker's layers, and optionally freeze the others.

Everything around the talker's layers is trained as in `full`: new layers act through the head and the sub-talker, which
must adapt to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from job.core.errors import BadInput
from job.modes.train_mode import Shapes, TrainMode, size

if TYPE_CHECKING:
    from torch import nn

    from job.config.settings import Settings


class Layers(TrainMode):
    """REPLACE_LAST_N_LAYERS, ADD_NEW_LAYERS and FREEZE_ORIGINAL_LAYERS."""

    name = "layers"

    def check(self, settings: Settings, layers: int) -> None:
        """Reject replacing more layers than there are."""
        if settings.replace_last_n_layers > layers:
            raise BadInput(f"REPLACE_LAST_N_LAYERS={settings.replace_last_n_layers}: the talker has {layers} layers")

    def select(self, model: Any, settings: Settings) -> None:
        """Reinitialise the last layers, add layers that start as identity, and freeze the others if configured."""
        from torch import nn

        talker = model.talker
        talker.requires_grad_(True)
        talker.model.text_embedding.requires_grad_(False)
        layers = talker.model.layers
        self.check(settings, len(layers))
        replaced, added = settings.replace_last_n_layers, settings.add_new_layers
        layers.requires_grad_(not settings.freeze_original_layers)
        kind, config = type(layers[0]), layers[0].self_attn.config
        device = next(layers.parameters()).device
        for index in range(len(layers) - replaced, len(layers)):
            layers[index] = _fresh(kind, config, index, device)
        for _ in range(added):
            layer = _fresh(kind, config, len(layers), device)
            # Both residual branches start at zero, so the added layer does not change the model's output at first.
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)
            layers.append(layer)
        for layer in list(layers)[len(layers) - replaced - added :]:
            layer.requires_grad_(True)
        model.config.talker_config.num_hidden_layers = talker.config.num_hidden_layers = len(layers)

    def trained_values(self, settings: Settings, shapes: Shapes) -> int:
        """Count everything around the layers, and the layers that are not frozen."""
        numbers = {int(name.split(".")[3]) for name in shapes if name.startswith("talker.model.layers.")}
        one = size(shapes, lambda name: name.startswith("talker.model.layers.0."))
        trained, _ = self.layers(settings, len(numbers))
        return super().trained_values(settings, shapes) + one * (trained - len(numbers))

    def layers(self, settings: Settings, layers: int) -> tuple[int, int]:
        """Count trained and frozen layers by the class's variables."""
        frozen = layers - settings.replace_last_n_layers if settings.freeze_original_layers else 0
        return layers + settings.add_new_layers - frozen, frozen


def _fresh(kind: type[nn.Module], config: Any, index: int, device: Any) -> Any:
    """Create a decoder layer initialised as the library does: N(0, initializer_range), norms at one."""
    from torch import nn

    layer = kind(config, index)  # in fp32 on the CPU: the same random weights for every device
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return layer.to(device)
