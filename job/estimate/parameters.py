"""Count the base model's parameters, and how many of them a run trains, from the headers of its weight files."""

from __future__ import annotations

import math
from pathlib import Path

from job.config.settings import Settings
from job.core.errors import BadInput
from job.dataset.prepared import read_summary
from job.estimate.flops import Work
from job.estimate.layer_bytes import Shapes
from job.model import loading
from job.model.embedding_rows import language_rows
from job.modes import mode_of
from job.modes.train_mode import size
from job.train import progressive


def shapes_of(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights, from the headers of the base model's files."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(loading.base_directory(settings).glob("*.safetensors")):
        with safe_open(str(path), framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118  # not a dict
                shapes[name] = tuple(weights.get_slice(name).get_shape())
    return shapes


def parameter_counts(settings: Settings, shapes: Shapes | None = None) -> tuple[int, int]:
    """The number of parameters of the base model, and of trained ones (including adapters and added layers)."""
    shapes = shapes_of(settings) if shapes is None else shapes
    return sum(math.prod(shape) for shape in shapes.values()), trained_values(settings, shapes)


def new_languages(settings: Settings) -> bool:
    """Whether prepared rows have a language new to the base model, whose embedding is then trained."""
    try:
        spoken = read_summary(settings.paths).get("languages", {})
    except BadInput:
        return False
    # By the base as training does: the data may have been prepared with another one.
    return bool(language_rows(loading.read_config(loading.base_directory(settings)).raw, sorted(spoken)))


def trained_values(settings: Settings, shapes: Shapes, *, new: bool | None = None) -> int:
    """The number of trained parameters, by the rules of `job.train.adapt`.

    Args:
        new: whether the data has languages that the base lacks, for which every mode trains the codec embedding; by
            default whether the prepared data has.
    """
    projection = size(shapes, lambda name: ".text_projection." in name) if settings.train_text_projection else 0
    silent = settings.sub_talker_loss_weight == 0 or Work.of(shapes).codebooks < 2  # then the sub-talker is frozen
    left = {
        name: shape
        for name, shape in shapes.items()
        if ".text_projection." not in name
        and not (silent and name.startswith("talker.code_predictor.") and ".codec_embedding." not in name)
    }
    rows = 0
    new = new_languages(settings) if new is None else new
    if new and mode_of(settings).adapters:  # other modes train it anyway
        rows = size(shapes, lambda name: name == "talker.model.codec_embedding.weight")
    return projection + rows + mode_of(settings).trained_values(settings, left)


def are_trained(settings: Settings, checkpoint: Path) -> bool:
    """Whether a checkpoint's file of trained weights has as many values as these settings train.

    Languages that the base lacks are among what is trained, and may not be known yet.
    """
    from safetensors import safe_open

    shapes = shapes_of(settings)
    with safe_open(str(checkpoint), framework="numpy") as weights:
        count = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count in {trained_values(settings, shapes, new=new) for new in (False, True)}


def misfit(settings: Settings, adapter: Path) -> str | None:
    """Why an adapter's tensors do not go with the base model's weights; None if they do, or cannot be told by names."""
    from safetensors import SafetensorError, safe_open

    path, shapes = adapter / "adapter_model.safetensors", shapes_of(settings)
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # not a dict
                layer, _, side = name.removeprefix("base_model.model.").partition(".lora_")
                adapted = shapes.get(f"{layer}.weight")
                shape = tuple(tensors.get_slice(name).get_shape())
                rank, sides = settings.lora_r, side[:1]
                expected = adapted and {"A": (rank, adapted[1]), "B": (adapted[0], rank)}.get(sides)
                if expected and shape != expected:
                    return f"{name} has shape {shape} where the model has {expected}"
    except SafetensorError:
        return f"{path.name} is damaged; take another copy"
    return None


def check_stages(settings: Settings, *, new: bool) -> None:
    """Reject PROGRESSIVE_STAGES with one in which nothing would be trained.

    Args:
        new: as for `trained_values`.

    Raises:
        BadInput: naming the stage, or it cannot be read.
    """
    phases = progressive.parse(settings.progressive_stages)
    shapes = shapes_of(settings) if phases else {}

    def trains(phase: progressive.Phase) -> bool:
        held = {name: shape for name, shape in shapes.items() if phase.holds(name)}
        return trained_values(settings, held, new=new) > 0

    progressive.check(phases, trains)
