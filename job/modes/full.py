"""TRAIN_MODE=full: everything but the text embedding and the speaker encoder is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from job.modes.train_mode import TrainMode

if TYPE_CHECKING:
    from job.config.settings import Settings


class Full(TrainMode):
    """All of the talker and the sub-talker."""

    name = "full"
    nearly_all = True
    shardable = True

    def select(self, model: Any, settings: Settings) -> None:
        """Enable gradients for the talker and the sub-talker."""
        model.talker.requires_grad_(True)
        model.talker.model.text_embedding.requires_grad_(False)
