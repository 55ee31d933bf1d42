"""Estimate the memory of activations and gradients from shapes, settings and the batch, without torch.

For its backward pass a layer keeps, per position, what its norms, linear layers, gating and attention keep. With D the
width of the residual stream, Q and K the widths of queries and keys, and I that of the MLP:

- the inputs of both norms (D each, in the stream's dtype) and their scales;
- what the products that are trained or adapted take. Queries, keys and values share a norm's output, gate and up
  another's, which the norms give in autocast's type; in front of adapters, dropout makes a copy and a mask for each of
  them. A frozen product without an adapter keeps nothing;
- the inputs of the norms of queries and keys (Q + K), attention's query, key, value and output, and a sum a head.
  torch's variable-length attention is given keys and values repeated to the queries' heads;
- the MLP's two products and the gate's activation (3 I), and their product (I) where the last product is trained or
  adapted.

Under autocast a weight that is not in bf16 is kept as a bf16 copy as well. The losses are differentiated chunk by chunk
in the forward pass (`job.train.chunked`): all that the talker keeps is there while a chunk goes through the sub-talker,
and the gradient of the sub-talker's weights exists twice from the second chunk on. That moment, the first talker
layer's backward pass or the last one's is the peak: `Working` has all of them.

GRADIENT_CHECKPOINTING=true keeps a layer's input, `selective` (`job.train.recompute`) what attention's products and
attention itself give as well. All else is made again when the backward pass comes to the layer.

tests/test_activations.py holds this against the storages that exist while the real objective runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from job.config import optimizer_choice
from job.config.settings import Settings
from job.modes import mode_of

Shapes = Mapping[str, tuple[int, ...]]

_TALKER, _SUB_TALKER = "talker.model.", "talker.code_predictor.model."
#: Flash attention processes a sequence in blocks of this many rows; its fp32 gradient of the queries is padded to them.
_FLASH_ROWS = 128
#: Bytes per position of a batch's own integer tensors.
_INDEX_BYTES = 64


@dataclass(frozen=True)
class Load:
    """The size of a batch: positions, how many of them are frames, samples, and (at most) distinct text ids."""

    positions: int
    frames: int
    samples: int
    texts: int


@dataclass(frozen=True)
class Working:
    """Bytes besides weights and optimizer (gradients included) at each moment that may be the peak.

    Attributes:
        kept: what autograd keeps of the talker, including bf16 copies of weights.
        chunk: what the sub-talker's largest chunk takes.
        forward: the peak of the forward pass, in which the losses are differentiated.
        backward: the peak at the first talker layer of the backward pass.
        late: the peak at the last one, when all gradients exist.
        in_kernels: additional workspace of attention's backward pass on a GPU.
    """

    kept: int
    chunk: int
    forward: int
    backward: int
    late: int
    in_kernels: int

    @property
    def peak(self) -> int:
        """The peak over all moments, in tensors; `in_kernels` comes on top."""
        return max(self.forward, self.backward, self.late)


@dataclass(frozen=True)
class Types:
    """Bytes per value of the computation, of trained and frozen weights, and of the codec embedding."""

    compute: int
    trained: int
    frozen: int
    codec: int

    @classmethod
    def of(cls, settings: Settings, *, new_languages: bool = False) -> Types:
        """The types on a GPU. With new languages every mode trains the codec embedding (`job.train.adapt`)."""
        mixed = settings.mixed_precision != "no"
        trained = 2 if optimizer_choice.in_bf16(settings) else 4
        lowered = settings.mixed_precision in ("auto", "bf16") and not mode_of(settings).nearly_all
        frozen = 2 if lowered or trained == 2 else 4
        codec = trained if new_languages or not mode_of(settings).adapters else frozen
        return cls(compute=2 if mixed else 4, trained=trained, frozen=frozen, codec=codec)

    def inputs(self, products: int, width: int, kind: Kind) -> int:
        """Bytes per position that `products` (linear layers sharing an input of `width` values) keep of it."""
        return width * (products * (self.compute + 1) if kind.dropout else min(1, products) * self.compute)


@dataclass(frozen=True)
class Stack:
    """The decoder layers of talker or sub-talker: widths, and bytes per value of the residual stream.

    `packed` is torch's variable-length attention over a row of several samples, as in the talker.
    """

    layers: int
    width: int
    queries: int
    keys: int
    head: int
    inner: int
    entries: int
    stream: int
    packed: bool

    @classmethod
    def of(cls, shapes: Shapes, prefix: str, *, stream: int, packed: bool) -> Stack:
        """Read the widths from the weights under `prefix`; `stream` is bytes per value."""
        first = f"{prefix}layers.0."
        layer = {name.removeprefix(first): shape for name, shape in shapes.items() if name.startswith(first)}
        queries, width = layer["self_attn.q_proj.weight"]
        return cls(
            layers=sum(name.startswith(f"{prefix}layers.") and name.endswith(".q_proj.weight") for name in shapes),
            width=width,
            queries=queries,
            keys=layer["self_attn.k_proj.weight"][0],
            head=layer["self_attn.q_norm.weight"][0],
            inner=layer["mlp.gate_proj.weight"][0],
            entries=sum(math.prod(shape) for shape in layer.values() if len(shape) > 1),
            stream=stream,
            packed=packed,
        )  # fmt: skip

    def layer(self, types: Types, kind: Kind) -> int:
        """Bytes per position that one layer keeps."""
        low, stream = types.compute, self.stream
        products = kind.trained or kind.attention
        kept = 2 * (self.width * stream + 4)
        kept += types.inputs(3 * products, self.width, kind)
        kept += (self.queries + self.keys) * low + (self.queries + self.keys) // self.head * 4
        shared = not self.packed or self.queries == self.keys
        kept += (2 * self.queries + 2 * (self.keys if shared else self.queries)) * low + self.queries // self.head * 4
        kept += 2 * self.head * stream if self.packed else 0  # the rotation's cosines and sines
        if kind.attention and kind.dropout:
            kept += self.queries * low  # else the last product takes attention's output itself
        both = kind.trained or kind.mlp
        kept += types.inputs(2 * both, self.width, kind) + (3 + both) * self.inner * low
        kept += kind.dropout * (self.queries * kind.attention + self.inner * kind.mlp)
        return kept + (4 * kind.attention + 3 * kind.mlp) * kind.rank * low

    def checkpointed(self, types: Types, kind: Kind, checkpointing: bool | str) -> int:
        """Bytes per position that one layer keeps with GRADIENT_CHECKPOINTING: all, its input, or `selective`'s."""
        if not checkpointing:
            return self.layer(types, kind)
        kept = self.width * self.stream
        if checkpointing == "selective":
            kept += (2 * self.queries + 2 * self.keys + self.width) * types.compute + self.queries // self.head * 4
            kept += (4 * kind.attention + 2 * kind.mlp) * kind.rank * types.compute
        return kept

    def made(self, types: Types, kind: Kind, checkpointing: bool | str) -> int:
        """Bytes per position that a layer recomputes in the backward pass."""
        return self.layer(types, kind) - self.checkpointed(types, kind, checkpointing) + self.width * self.stream

    def backward(self, types: Types, kind: Kind) -> int:
        """Temporary bytes per position of a layer's backward pass, on top of what it keeps.

        These are the gradients in and around the MLP; the gated product, if it was kept, has been freed.
        """
        let_go = kind.trained or kind.mlp
        return (3 - let_go) * self.inner * types.compute + self.width * (self.stream + types.compute)


@dataclass(frozen=True)
class Kind:
    """How a layer is trained: all its weights, adapters of `rank` on attention and perhaps the MLP, or not at all."""

    trained: bool = False
    attention: bool = False
    mlp: bool = False
    rank: int = 0
    dropout: bool = False


def working(
    shapes: Shapes,
    settings: Settings,
    load: Load,
    gradients: int,
    *,
    types: Types | None = None,
    whole: bool = True,
    sharded: bool = False,
) -> Working:
    """The GPU memory of a step besides weights and optimizer.

    Args:
        shapes: shapes of the base model's weights, by their stock names.
        load: the largest micro-batch.
        gradients: bytes of the gradients of all trained weights.
        types: bytes per value; by default those of the settings.
        whole: the step has one micro-batch; otherwise gradients of earlier ones exist while it is computed.
        sharded: the talker's layers are gathered in the computation's dtype (`job.train.spread`), not copied.
    """
    from job.train.objective import FRAMES_AT_ONCE, TOKENS_AT_ONCE

    types = types or Types.of(settings)
    low = types.compute
    talker = Stack.of(shapes, _TALKER, stream=max(low, types.codec), packed=True)
    own, frozen = mode_of(settings).layers(settings, talker.layers)
    everything = not mode_of(settings).adapters
    states = max(talker.stream, types.trained if everything else types.frozen)  # bytes of the last norm's output
    width, checkpointing = talker.width, settings.gradient_checkpointing

    # ---- the talker
    layers = own * talker.checkpointed(types, _kind(settings), checkpointing)
    layers += frozen * talker.checkpointed(types, Kind(), checkpointing)
    most = max(talker.layer(types, _kind(settings)) if own else 0, talker.layer(types, Kind()) if frozen else 0)
    a_position = layers + width * talker.stream + 4 + width * states + _INDEX_BYTES
    kept = load.positions * a_position
    if settings.train_text_projection:
        text_width = shapes["talker.text_projection.linear_fc1.weight"][1]
        kept += 3 * load.texts * text_width * low
    copied = 0 if sharded else own * _copied(types, trained=everything) + frozen * _copied(types, trained=False)
    copies = low * talker.entries * copied
    differentiated = talker.backward(types, _kind(settings))
    made = talker.made(types, _kind(settings), checkpointing) if checkpointing else 0
    in_backward = load.positions * (differentiated + width * states + made)

    # ---- the output head and the sub-talker, chunk by chunk
    labels = load.frames + load.samples
    by_labels = labels * width * states
    head = shapes["talker.codec_head.weight"]
    at_once = _cut(labels, TOKENS_AT_ONCE)[1]
    head_chunk = at_once * (width * low + head[0] * (8 + low))
    head_gradients = _gradients(settings, types, [head], adapted=settings.lora_heads)
    sub = _SubTalker.of(shapes, settings, types, states)
    frames = max(1, round(settings.sub_talker_frame_fraction * load.frames)) if sub else 0
    fed = frames * sub.books * width * states if sub else 0
    copies += low * (math.prod(head) + (sub.entries if sub else 0)) if _copied(types, trained=everything) else 0
    read = sets = 0
    chunks = _Chunks()
    if sub:
        read = frames * (sub.books - 1) * width * types.codec  # the embeddings, before they are put beside the states
        sets = sub.gradients
        chunks = sub.chunks(frames, fed, FRAMES_AT_ONCE["cuda"])
    earlier = 0 if whole else gradients
    held = kept + copies + 2 * by_labels + head_gradients + earlier
    # With checkpointing each layer makes its copies again; those of layers already differentiated have been freed.
    in_layers = 0 if checkpointing else low * talker.entries * copied
    first = kept + in_layers + sets + head_gradients + earlier - load.positions * width * states
    # What is looked up gets its gradients last, those by the sub-talker's inputs have waited for it.
    tables = sum(math.prod(s) for n, s in shapes.items() if ".codec_embedding." in n) * types.trained * everything
    looked_up, fed_back = (load.frames + frames) * width * types.codec * everything, fed * everything
    flash = (load.positions + _FLASH_ROWS * load.samples) * talker.queries * 4
    return Working(
        kept=kept + copies,
        chunk=chunks.largest,
        forward=held + read + max(fed + chunks.peak, head_chunk),
        backward=first + max(by_labels + fed, fed_back + in_backward),
        late=gradients - tables + max(tables + looked_up, load.positions * (most + differentiated)) + fed_back,
        in_kernels=max(chunks.in_kernels, flash),
    )


@dataclass(frozen=True)
class _Chunks:
    """Memory of the sub-talker's chunks: the peak besides its inputs, the largest chunk alone, and kernel workspace."""

    peak: int = 0
    largest: int = 0
    in_kernels: int = 0


@dataclass(frozen=True)
class _SubTalker:
    """The sub-talker and how it is trained."""

    stack: Stack
    types: Types
    kind: Kind
    books: int
    codes: int
    entries: int
    gradients: int
    projected: int
    heads: int
    checkpointing: bool | str

    @classmethod
    def of(cls, shapes: Shapes, settings: Settings, types: Types, states: int) -> _SubTalker | None:
        """None if a frame has only one codebook. `states` is bytes per value of the talker's hidden states."""
        heads = [s for name, s in shapes.items() if name.startswith("talker.code_predictor.lm_head.")]
        if not heads:
            return None
        projection = shapes.get("talker.code_predictor.small_to_mtp_projection.weight")
        stream = types.compute if projection else states
        stack = Stack.of(shapes, _SUB_TALKER, stream=stream, packed=False)
        everything = not mode_of(settings).adapters
        kind = _kind(settings)
        if not everything and not settings.lora_sub_talker:
            kind = Kind()
        own = [
            shape
            for name, shape in shapes.items()
            if name.startswith("talker.code_predictor.") and ".codec_embedding." not in name
        ]
        adapted = settings.lora_heads and settings.lora_sub_talker
        trained = everything or adapted
        # Its input is a slice of the sub-talker's input, which is kept anyway; a copy in another dtype is not.
        projected = types.compute * projection[1] if projection and everything and states != types.compute else 0
        return cls(
            stack=stack,
            types=types,
            kind=kind,
            books=len(heads) + 1,
            codes=heads[0][0],
            entries=sum(math.prod(shape) for shape in own),
            gradients=_gradients(settings, types, own, adapted=settings.lora_sub_talker),
            projected=projected,
            heads=types.inputs(trained, stack.width, _kind(settings)),
            checkpointing=settings.gradient_checkpointing,
        )  # fmt: skip

    def chunk(self, frames: int) -> int:
        """Bytes that this many frames take when the backward pass begins."""
        stack, types = self.stack, self.types
        made = stack.made(types, self.kind, self.checkpointing) if self.checkpointing else 0
        kept = stack.layers * stack.checkpointed(types, self.kind, self.checkpointing)
        kept += stack.width * stack.stream + 4 + self.projected
        # The heads' tensors are freed before the first layer is differentiated.
        heads = (self.books - 1) * (self.heads + 4 * self.codes + self.kind.rank * types.compute) + 8 * self.codes
        layers = self.books * (stack.backward(types, self.kind) + made)
        return frames * (self.books * kept + max(heads, layers))

    def chunks(self, frames: int, fed: int, at_once: int) -> _Chunks:
        """The peak for this many frames, whose inputs take `fed` bytes, in the chunks of `job.train.chunked`."""
        count, size = _cut(frames, at_once)
        peak = 2 * fed + min(2, count) * self.gradients  # at the end the gradients by frames are put together
        before = (self.gradients + fed * (count - 1) // count) if count > 1 else 0  # the last one's start
        # What the chunk keeps is freed while its gradients are computed, so all of them exist only at its last layer.
        stack = self.stack
        late = size * self.books * (stack.layer(self.types, self.kind) + stack.backward(self.types, self.kind))
        peak = max(peak, before + max(self.chunk(size), self.gradients + late))
        return _Chunks(peak, self.chunk(size), self.in_kernels(size))

    def in_kernels(self, frames: int) -> int:
        """Bytes beyond `chunk` in flash attention's backward pass, in which each frame is a sequence.

        The tensors of the output heads and the layer's MLP have been freed by then.
        """
        stack, low = self.stack, self.types.compute
        rows = -(-self.books // _FLASH_ROWS) * _FLASH_ROWS
        taken = rows * (stack.queries + stack.queries // stack.head) * 4 + 2 * self.books * stack.queries * low
        gone = stack.backward(self.types, Kind()) + 2 * stack.inner * low
        return frames * max(0, taken - self.books * gone - (self.books - 1) * 4 * self.codes)


def _cut(rows: int, at_once: int) -> tuple[int, int]:
    """The number of chunks that `job.train.chunked` makes of this many rows, and the size of the largest."""
    return (count := -(-rows // at_once)), -(-rows // count)


def _kind(settings: Settings) -> Kind:
    if not mode_of(settings).adapters:
        return Kind(trained=True)
    return Kind(attention=True, mlp=settings.lora_mlp, rank=settings.lora_r, dropout=settings.lora_dropout > 0)


def _copied(types: Types, *, trained: bool) -> bool:
    """Whether autocast keeps bf16 copies of weights of this size."""
    return (types.trained if trained else types.frozen) != types.compute


def _gradients(settings: Settings, types: Types, shapes: list[tuple[int, ...]], *, adapted: bool) -> int:
    """Bytes of the gradients of weights with these shapes, or of their adapters."""
    if not mode_of(settings).adapters:
        return types.trained * sum(math.prod(shape) for shape in shapes)
    matrices = [shape for shape in shapes if len(shape) == 2]
    return types.trained * settings.lora_r * sum(sum(shape) for shape in matrices) if adapted else 0
