"""The memory that a decoder layer needs for its backward pass, from its shapes, without torch.

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

GRADIENT_CHECKPOINTING=true keeps a layer's input, `selective` (`job.fast.recompute`) all but what the MLP and the norm
in front of it keep. That is made again when the backward pass comes to the layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from job.config import optimizer_choice
from job.config.settings import Settings
from job.modes import mode_of

Shapes = Mapping[str, tuple[int, ...]]

#: Flash attention processes a sequence in blocks of this many rows; its fp32 gradient of the queries is padded to them.
FLASH_ROWS = 128


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
            kept += self.queries * (low + 1)  # a copy and its mask; else the last product takes attention's output
        return kept + 4 * kind.attention * kind.rank * low + self._mlp(types, kind)

    def _mlp(self, types: Types, kind: Kind) -> int:
        both = kind.trained or kind.mlp
        kept = types.inputs(2 * both, self.width, kind) + (3 + both) * self.inner * types.compute
        return kept + kind.dropout * self.inner * kind.mlp + 3 * kind.mlp * kind.rank * types.compute

    def checkpointed(self, types: Types, kind: Kind, checkpointing: bool | str) -> int:
        """Bytes per position that one layer keeps with GRADIENT_CHECKPOINTING: all, its input, or `selective`'s."""
        if not checkpointing:
            return self.layer(types, kind)
        if checkpointing == "selective":
            return self.layer(types, kind) - self._mlp(types, kind) - 4
        return self.width * self.stream

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


def kind_of(settings: Settings) -> Kind:
    """How the layers that are trained or adapted are trained."""
    if not mode_of(settings).adapters:
        return Kind(trained=True)
    return Kind(attention=True, mlp=settings.lora_mlp, rank=settings.lora_r, dropout=settings.lora_dropout > 0)


def has_copies(types: Types, *, trained: bool) -> bool:
    """Whether autocast keeps bf16 copies of weights of this size."""
    return (types.trained if trained else types.frozen) != types.compute


def adapter_copies(stack: Stack, types: Types, kind: Kind, checkpointing: bool | str) -> int:
    """Bytes of the copies in the computation's dtype that a layer's adapters make, and keep until differentiated."""
    if types.trained == types.compute or not kind.rank or checkpointing is True:
        return 0
    attention = 4 * stack.width + 2 * (stack.queries + stack.keys)
    mlp = 3 * (stack.width + stack.inner) if kind.mlp and checkpointing != "selective" else 0
    return types.compute * kind.rank * (attention + mlp)


def gradient_bytes(settings: Settings, types: Types, shapes: Shapes) -> int:
    """Bytes of the gradients of these weights, or of their adapters."""
    if not mode_of(settings).adapters:
        return types.trained * sum(math.prod(shape) for shape in shapes.values())
    return types.trained * settings.lora_r * sum(map(sum, mode_of(settings).adapted(settings, shapes)))
