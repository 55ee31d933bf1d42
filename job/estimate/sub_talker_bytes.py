"""The memory of the sub-talker's chunks, which are differentiated one by one in the forward pass, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from job.config.settings import Settings
from job.estimate.layer_bytes import (
    FLASH_ROWS,
    Kind,
    Shapes,
    Stack,
    Types,
    adapter_copies,
    gradient_bytes,
    has_copies,
    kind_of,
)
from job.modes import mode_of

SUB_TALKER = "talker.code_predictor.model."


@dataclass(frozen=True)
class Chunks:
    """Memory of the sub-talker's chunks: the peak besides its inputs, the largest chunk alone, and kernel workspace."""

    peak: int = 0
    largest: int = 0
    in_kernels: int = 0


@dataclass(frozen=True)
class SubTalker:
    """The sub-talker and how it is trained.

    Attributes:
        gradients: bytes of all gradients.
        a_layer: those of one layer's.
        copies, head_copies: bytes of the adapters' copies in the computation's dtype, the layers' and the heads'.
        weights: bytes of the weights' copies in it.
    """

    stack: Stack
    types: Types
    kind: Kind
    codebooks: int
    codes: int
    gradients: int
    a_layer: int
    copies: int
    head_copies: int
    weights: int
    projected: int
    heads: int
    checkpointing: bool | str

    @classmethod
    def of(cls, shapes: Shapes, settings: Settings, types: Types, states: int) -> SubTalker | None:
        """None if a frame has only one codebook. `states` is bytes per value of the talker's hidden states."""
        heads = [s for name, s in shapes.items() if name.startswith("talker.code_predictor.lm_head.")]
        if not heads:
            return None
        projection = shapes.get("talker.code_predictor.small_to_mtp_projection.weight")
        stream = types.compute if projection else states
        stack = Stack.of(shapes, SUB_TALKER, stream=stream, packed=False)
        moves = settings.sub_talker_loss_weight > 0  # else it is frozen, and differentiated for the talker's sake
        everything = moves and not mode_of(settings).adapters
        adapters = moves and mode_of(settings).adapters and settings.lora_sub_talker
        kind = kind_of(settings) if everything or adapters else Kind()
        own = {
            name: shape
            for name, shape in shapes.items()
            if name.startswith("talker.code_predictor.") and ".codec_embedding." not in name
        }
        layer = {name: shape for name, shape in own.items() if name.startswith(f"{SUB_TALKER}layers.0.")}
        adapted = settings.lora_heads and adapters
        trained = everything or adapted
        entries = sum(math.prod(shape) for shape in own.values())
        checkpointing = settings.gradient_checkpointing
        head_copies = 0
        copies = stack.layers * adapter_copies(stack, types, kind, checkpointing)
        if adapted and types.trained != types.compute:
            head_copies = types.compute * settings.lora_r * sum(map(sum, heads))
        # Its input is a slice of the sub-talker's input, which is kept anyway; a copy in another dtype is not.
        projected = types.compute * projection[1] if projection and everything and states != types.compute else 0
        return cls(
            stack=stack,
            types=types,
            kind=kind,
            codebooks=len(heads) + 1,
            codes=heads[0][0],
            gradients=gradient_bytes(settings, types, own) if moves else 0,
            a_layer=gradient_bytes(settings, types, layer) if moves else 0,
            copies=copies,
            head_copies=head_copies,
            weights=types.compute * entries * has_copies(types, trained=everything),
            projected=projected,
            heads=types.inputs(trained, stack.width, kind_of(settings)),
            checkpointing=checkpointing,
        )  # fmt: skip

    def chunk(self, frames: int) -> int:
        """Bytes that this many frames take when the backward pass begins."""
        stack, types = self.stack, self.types
        made = stack.made(types, self.kind, self.checkpointing) if self.checkpointing else 0
        kept = stack.layers * stack.checkpointed(types, self.kind, self.checkpointing)
        kept += stack.width * stack.stream + 4 + self.projected
        # The heads' tensors are freed before the first layer is differentiated.
        heads = (self.codebooks - 1) * (self.heads + 4 * self.codes + self.kind.rank * types.compute) + 8 * self.codes
        layers = self.codebooks * (stack.backward(types, self.kind) + made)
        return frames * self.codebooks * kept + max(frames * heads + self.head_copies, frames * layers) + self.copies

    def chunks(self, frames: int, fed: int, at_once: int) -> Chunks:
        """The peak for this many frames, whose inputs take `fed` bytes, in the chunks of `job.loss.chunked`."""
        count, size = cut(frames, at_once)
        peak = 2 * fed + min(2, count) * self.gradients  # at the end the gradients by frames are put together
        before = (self.gradients + fed * (count - 1) // count) if count > 1 else 0  # the last one's start
        # What the chunk keeps is freed while its gradients are computed, so all of them exist only at its last layer.
        stack = self.stack
        late = size * self.codebooks * (stack.layer(self.types, self.kind) + stack.backward(self.types, self.kind))
        # That layer's own come last, one after the other, while what it keeps goes.
        late += self.gradients - self.a_layer
        peak = max(peak, before + max(self.chunk(size), late))
        return Chunks(peak, self.chunk(size), self.in_kernels(size))

    def in_kernels(self, frames: int) -> int:
        """Bytes beyond `chunk` in flash attention's backward pass, in which each frame is a sequence.

        The tensors of the output heads and the layer's MLP have been freed by then.
        """
        stack, low = self.stack, self.types.compute
        rows = -(-self.codebooks // FLASH_ROWS) * FLASH_ROWS
        taken = rows * (stack.queries + stack.queries // stack.head) * 4 + 2 * self.codebooks * stack.queries * low
        gone = stack.backward(self.types, Kind()) + 2 * stack.inner * low
        return frames * max(0, taken - self.codebooks * gone - (self.codebooks - 1) * 4 * self.codes)


def cut(rows: int, at_once: int) -> tuple[int, int]:
    """The number of chunks that `job.loss.chunked` makes of this many rows, and the size of the largest."""
    return (count := -(-rows // at_once)), -(-rows // count)
