"""Progressive training: different parts of the model in successive stages (`PROGRESSIVE_STAGES`).

`text_projection:2|talker+text_projection:5|all` trains the text projection alone for two epochs, then the talker with
it for five, then everything that TRAIN_MODE trains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from job.core.errors import BadInput

if TYPE_CHECKING:
    from torch import nn

    from job.optimizer.groups import Group

#: Part -> substrings that identify its parameters' names.
PARTS: dict[str, tuple[str, ...]] = {
    "text_projection": (".text_projection.",),
    "embeddings": (".codec_embedding.",),
    "talker": ("talker.model.layers.", "talker.model.norm.", ".codec_head."),
    "sub_talker": (".code_predictor.",),
    "all": ("",),
}


@dataclass(frozen=True)
class Phase:
    """Parts that are trained before epoch `until` (exclusive); None means until the end of the run."""

    parts: tuple[str, ...]
    until: int | None

    def holds(self, name: str) -> bool:
        """Whether the parameter `name` belongs to one of the parts."""
        return any(mark in name for part in self.parts for mark in PARTS[part])


def parse(value: str | None) -> list[Phase]:
    """Read PROGRESSIVE_STAGES; an empty list means that everything is trained all the time.

    Raises:
        BadInput: a part is unknown, or a number of epochs is missing or not a number.
    """
    phases: list[Phase] = []
    end = 0
    stages = value.split("|") if value else []
    for number, stage in enumerate(stages):
        names, _, epochs = stage.strip().partition(":")
        parts = tuple(part.strip() for part in names.split("+"))
        unknown = [part for part in parts if part not in PARTS]
        if unknown:
            raise BadInput(f"PROGRESSIVE_STAGES={value!r}: no part {unknown[0]!r}; parts are {', '.join(PARTS)}")
        if not epochs and number == len(stages) - 1:
            phases.append(Phase(parts, None))
            break
        if not epochs.strip().isdecimal() or int(epochs) < 1:
            raise BadInput(
                f"PROGRESSIVE_STAGES={value!r}: write {names.strip()}:<epochs> (only the last may go without)"
            )
        end += int(epochs)
        phases.append(Phase(parts, end))
    return phases


def check(phases: list[Phase], trains: Callable[[Phase], bool]) -> None:
    """Reject a phase in which nothing would be trained, already before the first step.

    Args:
        trains: whether any of a phase's parameters are trained.

    Raises:
        BadInput: a phase contains none of the parameters that TRAIN_MODE trains.
    """
    for phase in phases:
        if not trains(phase):
            raise BadInput(
                f"PROGRESSIVE_STAGES: nothing of {'+'.join(phase.parts)} is trained here (see TRAIN_MODE, "
                "TRAIN_TEXT_PROJECTION, LORA_SUB_TALKER and SUB_TALKER_LOSS_WEIGHT); leave that stage out"
            )


def activate(phases: list[Phase], epoch: int, groups: list[Group]) -> str:
    """Enable gradients only for the parts trained in `epoch`; returns the parts' names.

    The optimizer skips parameters without a gradient, weight decay included.
    """
    if not phases:
        return "all"
    phase = next((p for p in phases if p.until is None or epoch < p.until), phases[-1])
    for group in groups:
        for name, parameter in group.parameters:
            _switch(parameter, phase.holds(name))
    return "+".join(phase.parts)


def _switch(parameter: nn.Parameter, wanted: bool) -> None:
    parameter.requires_grad_(wanted)
    if not wanted:
        parameter.grad = None
