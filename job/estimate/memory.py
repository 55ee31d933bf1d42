"""What training takes of a GPU's memory, from the settings and the prepared data; without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from job.config import optimizer_choice
from job.config.settings import Settings
from job.core.errors import BadInput
from job.dataset.prepared import read_summary
from job.estimate import activations, lengths
from job.estimate.activations import Load, Shapes, Types, Working
from job.estimate.lengths import Lengths
from job.estimate.parameters import parameter_counts, shapes_of, trained_values
from job.modes import mode_of

#: Bytes that CUDA itself, its libraries' workspaces and loaded kernels take.
CUDA_BYTES = 1_000_000_000
#: Bytes a value while adapters are merged, a matrix at a time: their product, it scaled, the weight, and the sum.
MERGED_BYTES = 16
#: A batch without data to tell its lengths: a second of speech.
SECOND = Load(positions=40, frames=13, samples=1, texts=20)


@dataclass(frozen=True)
class Memory:
    """Bytes on a GPU at the worst moment of a step, and what they are made of.

    Attributes:
        state: weights, gradients and optimizer, as `state_bytes`; a process's share where they are cut up.
        working: what computing a batch takes besides, gradients included.
        gradients: bytes of gradients that are in both.
        update: temporary copies, in the optimizer's step or while a LoRA checkpoint is merged.
    """

    state: int
    working: Working
    gradients: int
    update: int

    @property
    def on_top(self) -> int:
        """What comes on top of `state`, which is not all there yet at the peak of the activations."""
        computing = self.working.peak + self.working.in_kernels - self.gradients
        return max(computing, self.update, 0)

    @property
    def total(self) -> int:
        """All, CUDA's own included."""
        return self.state + self.on_top + CUDA_BYTES


def memory_of(
    settings: Settings, load: Load, processes: int = 1, *, pieces: int = 1, shapes: Shapes | None = None
) -> Memory:
    """What training on such batches takes of each GPU.

    Args:
        load: the largest batch.
        processes: GPUs together; under DISTRIBUTED=fsdp they share weights, gradients and optimizer.
        pieces: into how many a batch is cut (as training does when memory runs out).
        shapes: of the base's weights, where they have been read before: finding the base may ask the Hub.

    Raises:
        BadInput: there is no base model.
    """
    shapes = shapes_of(settings) if shapes is None else shapes
    trained = trained_values(settings, shapes)
    types = Types.of(settings, new_languages=_new_languages(settings))
    sharded = settings.distributed == "fsdp" and processes > 1
    shared = processes if sharded else 1
    gradients = types.trained * trained // shared
    whole = pieces == 1 and settings.gradient_accumulation_steps == 1
    part = lengths.part(load, pieces)
    working = activations.working(shapes, settings, part, gradients, types=types, whole=whole, sharded=sharded)
    update = 0
    if settings.optimizer == "adamw":
        update = trained * types.trained // shared  # the roots of all second moments at once
    mode = mode_of(settings)
    if mode.adapters and mode.merged(settings):
        largest = max((math.prod(shape) for shape in mode.adapted(settings, shapes)), default=0)
        update = max(update, MERGED_BYTES * largest - gradients)
    state = state_bytes(settings, shapes) // shared
    if sharded:
        state += _gathered(shapes, types)
    return Memory(state, working, gradients, update)


def _gathered(shapes: Shapes, types: Types) -> int:
    """Bytes that each process has whole while it computes under DISTRIBUTED=fsdp.

    Around the layers: weights, gradients, and the message in which these are added up, in fp32. Of the layers, in what
    they are computed in: one, the next one as it arrives and as it is laid out, and gradients; and their message.
    """
    layers, around = cut_up(shapes)
    one = sum(math.prod(shapes[name]) for name in layers if name.startswith("talker.model.layers.0."))
    whole = sum(math.prod(shapes[name]) for name in around)
    return 3 * types.trained * whole + (4 * min(types.compute, types.trained) + types.trained) * one


def cut_up(shapes: Shapes) -> tuple[list[str], list[str]]:
    """Names of the weights that DISTRIBUTED=fsdp cuts up: in the talker's layers, and around them."""
    layers = [name for name in shapes if name.startswith("talker.model.layers.")]
    return layers, [n for n in shapes if n.startswith("talker.") and n not in layers and ".text_embedding." not in n]


def state_bytes(settings: Settings, shapes: Shapes | None = None) -> int:
    """Memory of weights, gradients and optimizer, in bytes.

    Frozen weights are kept in bf16; in fp32 where everything else is trained, or nothing computes in bf16.
    """
    parameters, trained = parameter_counts(settings, shapes)
    frozen = max(0, parameters - trained) * Types.of(settings).frozen
    return round(trained * optimizer_choice.trained_bytes(settings)) + frozen


def least_bytes(settings: Settings, processes: int = 1) -> int:
    """What training needs on a GPU besides CUDA's own, its batches cut into single samples if need be.

    The longest prepared sample; before there is data, a second of speech.
    """
    try:
        longest = Lengths.of(settings).longest()
    except BadInput:
        longest = SECOND
    found = memory_of(settings, longest, processes)
    return found.state + found.on_top


def _new_languages(settings: Settings) -> bool:
    """Whether prepared rows speak a language that the base has no row for, which then is trained."""
    try:
        spoken = read_summary(settings.paths)["languages"]
    except BadInput:
        return False
    return not all(entry["known"] for entry in spoken.values())
