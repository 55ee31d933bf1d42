"""Estimate the GPU memory of training from the settings and the prepared data, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from job.config import optimizer_choice
from job.config.settings import Settings
from job.core.errors import BadInput
from job.estimate import activations, lengths
from job.estimate.activations import Load, Working
from job.estimate.layer_bytes import Shapes, Types
from job.estimate.lengths import Lengths
from job.estimate.parameters import new_languages, parameter_counts, shapes_of, trained_values
from job.modes import mode_of

#: Bytes of CUDA's context, its libraries' workspaces and loaded kernels.
CUDA_BYTES = 1_000_000_000
#: Bytes per value while adapters are merged, one matrix at a time: their product, scaled, the weight, and the sum.
MERGED_BYTES = 16
#: The sample assumed before there is data: one second of speech.
SECOND = Load(positions=40, frames=13, samples=1, texts=20)


@dataclass(frozen=True)
class Memory:
    """Peak bytes on a GPU during a step, and their parts.

    Attributes:
        state: weights, gradients and optimizer, as in `state_bytes`; one process's share if they are sharded.
        working: what computing a batch takes besides, including gradients.
        gradients: bytes of gradients, which are counted in both.
        update: temporary copies in the optimizer's step or while a LoRA checkpoint is merged.
    """

    state: int
    working: Working
    gradients: int
    update: int

    @property
    def on_top(self) -> int:
        """The part on top of `state`; not all of `state` exists yet at the peak of the activations."""
        computing = self.working.peak + self.working.in_kernels - self.gradients
        return max(computing, self.update, 0)

    @property
    def total(self) -> int:
        """The total, including CUDA's own memory."""
        return self.state + self.on_top + CUDA_BYTES


def memory_of(
    settings: Settings, load: Load, processes: int = 1, *, pieces: int = 1, shapes: Shapes | None = None
) -> Memory:
    """The memory that training on such batches takes on each GPU.

    Args:
        load: the largest batch.
        processes: number of GPUs; with DISTRIBUTED=fsdp weights, gradients and optimizer are sharded over them.
        pieces: number of parts that a batch is split into (as training does when memory runs out).
        shapes: shapes of the base model's weights, if already read: finding the base model may need the Hub.

    Raises:
        BadInput: there is no base model.
    """
    shapes = shapes_of(settings) if shapes is None else shapes
    trained = trained_values(settings, shapes)
    types = Types.of(settings, new_languages=new_languages(settings))
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
    """Bytes of unsharded tensors in each process while it computes with DISTRIBUTED=fsdp.

    Outside the layers: weights, gradients and the buffer of their all-reduce, in fp32. Of the layers, in the
    computation's dtype: the current one, the next one (as received and as unpacked), gradients and their buffer.
    """
    layers, around = by_layer(shapes)
    one = sum(math.prod(shapes[name]) for name in layers if name.startswith("talker.model.layers.0."))
    whole = sum(math.prod(shapes[name]) for name in around)
    return 3 * types.trained * whole + (4 * min(types.compute, types.trained) + types.trained) * one


def by_layer(shapes: Shapes) -> tuple[list[str], list[str]]:
    """Names of the weights that DISTRIBUTED=fsdp shards: in the talker's layers, and outside them."""
    layers = [name for name in shapes if name.startswith("talker.model.layers.")]
    return layers, [n for n in shapes if n.startswith("talker.") and n not in layers and ".text_embedding." not in n]


def state_bytes(settings: Settings, shapes: Shapes | None = None) -> int:
    """Bytes of weights, gradients and optimizer.

    Frozen weights are stored in bf16; in fp32 if all others are trained or nothing is computed in bf16.
    """
    parameters, trained = parameter_counts(settings, shapes)
    frozen = max(0, parameters - trained) * Types.of(settings).frozen
    return round(trained * optimizer_choice.trained_bytes(settings)) + frozen


def least_bytes(settings: Settings, processes: int = 1) -> int:
    """The least GPU memory for training, without CUDA's own: with batches split into single samples.

    Computed for the longest prepared sample, or for one second of speech before there is data.
    """
    try:
        longest = Lengths.of(settings).longest()
    except BadInput:
        longest = SECOND
    found = memory_of(settings, longest, processes)
    return found.state + found.on_top
