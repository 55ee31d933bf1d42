"""Interface of a training mode (a value of TRAIN_MODE); the defaults suit modes that train nearly all weights.

Nothing here imports torch, because `plan` and the early checks query modes too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from job.core.errors import BadInput

if TYPE_CHECKING:
    import torch

    from job.config.settings import Settings

Shapes = Mapping[str, tuple[int, ...]]


class TrainMode:
    """Decides what is trained, rejected, exported and counted, and what training may start from.

    Attributes:
        name: the value of TRAIN_MODE.
        adapters: whether adapters are trained and the base's weights stay frozen.
        nearly_all: whether so few weights are frozen that they are kept in fp32 like the others.
        shardable: whether DISTRIBUTED=fsdp (sharding) is supported.
        card: fields of the settings that the model card shows for this mode.
    """

    name: ClassVar[str]
    adapters: ClassVar[bool] = False
    nearly_all: ClassVar[bool] = False
    shardable: ClassVar[bool] = False
    card: ClassVar[tuple[str, ...]] = ()

    # ---- what is trained ---------------------------------------------------------------------------------------------

    def check(self, settings: Settings, layers: int) -> None:
        """Reject settings that are incompatible with each other, or with a talker of `layers` layers.

        Raises:
            BadInput: naming the variable and the fix.
        """

    def select(self, model: Any, settings: Settings) -> None:
        """Add the mode's modules to a fully frozen model, and enable gradients for what it trains.

        `job.train.adapt` handles what all modes share: `text_projection`, a sub-talker without loss, and rows of new
        languages.

        Args:
            model: a `Qwen3TTSForConditionalGeneration`; changed in place.
        """
        raise NotImplementedError

    # ---- what is counted, by the shapes of the base's weights --------------------------------------------------------

    def trained_values(self, settings: Settings, shapes: Shapes) -> int:
        """Count the trained values among the weights `shapes`, which are those that `select` decides on."""
        return size(shapes, lambda name: name.startswith("talker.") and ".text_embedding." not in name)

    def layers(self, settings: Settings, layers: int) -> tuple[int, int]:
        """Return how many of the talker's layers are trained or adapted, and how many not; the base has `layers`."""
        return layers, 0

    def adapted(self, settings: Settings, shapes: Shapes) -> list[tuple[int, ...]]:
        """Return the shapes of the weights that get adapters."""
        return []

    # ---- what is exported, and what it starts from -------------------------------------------------------------------

    def merged(self, settings: Settings) -> bool:
        """Return whether a checkpoint contains the whole model, usable by itself."""
        return True

    def adapter(self, settings: Settings) -> bool:
        """Return whether a checkpoint contains an adapter, alone or beside the whole model."""
        return False

    def adapter_weights(self, model: Any) -> dict[str, torch.Tensor]:
        """Return the adapter's tensors by the names they are saved under; for modes that export one."""
        raise NotImplementedError

    def adapter_config(self, model: Any, settings: Settings) -> Any:
        """Return the `peft.LoraConfig` that is saved with the adapter."""
        raise NotImplementedError

    def check_adapter(self, settings: Settings) -> None:
        """Reject starting from an adapter if the mode has none.

        Raises:
            BadInput: the mode has no adapters.
        """
        if not self.adapters:
            raise BadInput(f"RESUME={settings.resume} is an adapter; set TRAIN_MODE=lora to start from it")


def size(shapes: Shapes, keep: Callable[[str], bool]) -> int:
    """Count the values in the weights whose names `keep` accepts."""
    return sum(math.prod(shape) for name, shape in shapes.items() if keep(name))
