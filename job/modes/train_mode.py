"""What a mode of training (a value of TRAIN_MODE) has to say; what nearly all weights trained comes to is the default.

Torch is imported by nothing here: `plan` and the checks of the first minute ask modes too.
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
    """Owns what is trained, what is refused, what is exported, what is counted and what it starts from.

    Attributes:
        name: the value of TRAIN_MODE.
        adapters: the base's weights stay as they are, and adapters beside them are trained.
        nearly_all: so few weights are frozen that these are kept as exact as the others, in fp32.
        cut_up: DISTRIBUTED=fsdp can be used.
        card: fields of the settings that the model card shows for this mode.
    """

    name: ClassVar[str]
    adapters: ClassVar[bool] = False
    nearly_all: ClassVar[bool] = False
    cut_up: ClassVar[bool] = False
    card: ClassVar[tuple[str, ...]] = ()

    # ---- what is trained ---------------------------------------------------------------------------------------------

    def check(self, settings: Settings, layers: int) -> None:
        """Refuse settings that do not go together with each other, or with a talker of so many layers.

        Raises:
            BadInput: naming the variable and the fix.
        """

    def select(self, model: Any, settings: Settings) -> None:
        """Add what the mode adds to a model, all of which is frozen, and let gradients reach what it trains.

        The rest of `job.train.adapt` is the same for all modes: `text_projection`, the sub-talker where it has no loss,
        rows of new languages.

        Args:
            model: a `Qwen3TTSForConditionalGeneration`; changed in place.
        """
        raise NotImplementedError

    # ---- what is counted, by the shapes of the base's weights --------------------------------------------------------

    def trained_values(self, settings: Settings, shapes: Shapes) -> int:
        """How many values are trained of the weights `shapes`, which are those that `select` decides on."""
        return size(shapes, lambda name: name.startswith("talker.") and ".text_embedding." not in name)

    def layers(self, settings: Settings, layers: int) -> tuple[int, int]:
        """How many of the talker's layers are trained or adapted, and how many are not; the base has `layers`."""
        return layers, 0

    def adapted(self, settings: Settings, shapes: Shapes) -> list[tuple[int, ...]]:
        """Shapes of the weights that get adapters."""
        return []

    # ---- what is exported, and what it starts from -------------------------------------------------------------------

    def merged(self, settings: Settings) -> bool:
        """Whether a checkpoint holds the whole model, which speaks by itself."""
        return True

    def adapter(self, settings: Settings) -> bool:
        """Whether a checkpoint holds an adapter, alone or beside the whole model."""
        return False

    def adapter_weights(self, model: Any) -> dict[str, torch.Tensor]:
        """The adapter's tensors, by the names they are saved under; for a mode that exports one."""
        raise NotImplementedError

    def adapter_config(self, model: Any, settings: Settings) -> Any:
        """The `peft.LoraConfig` that is saved beside them."""
        raise NotImplementedError

    def check_adapter(self, settings: Settings) -> None:
        """Refuse to start from an adapter where there is nothing to take it.

        Raises:
            BadInput: the mode has no adapters.
        """
        if not self.adapters:
            raise BadInput(f"RESUME={settings.resume} is an adapter; set TRAIN_MODE=lora to start from it")


def size(shapes: Shapes, keep: Callable[[str], bool]) -> int:
    """Values in the weights whose names are kept."""
    return sum(math.prod(shape) for name, shape in shapes.items() if keep(name))
