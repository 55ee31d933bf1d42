"""Count the FLOPs of training from the shapes of a model's weights.

A matrix product of (m, k) and (k, n) takes 2mkn. Forward, a position costs 2P in the talker's layers (P their
matrices), and attention over the p positions up to and with itself 4 A p a layer (A the width of the queries), which
summed over a sample of n positions is 2 A n(n + 1). A predicted token costs 2P in the head. A frame of the sub-talker
costs as many positions as there are codebooks, in its layers and its input projection, and a head for each codebook but
the first. Backward costs as much twice where weights are trained: once for the inputs, once for the weights.
Embeddings, norms, rotation and softmax are not counted, nor the text projection of distinct ids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_TALKER = "talker.model.layers."
_SUB_TALKER = "talker.code_predictor.model.layers."


@dataclass(frozen=True)
class Work:
    """The matrix entries that a forward pass multiplies with, and the queries' widths summed over layers."""

    layers: int
    queries: int
    head: int
    sub_layers: int
    sub_queries: int
    sub_heads: int
    projection: int
    codebooks: int

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]]) -> Work:
        """Read them from the shapes of a model's weights, by their stock names (`talker.…`)."""

        def entries(prefix: str) -> int:
            return sum(math.prod(s) for name, s in shapes.items() if name.startswith(prefix) and len(s) == 2)

        def widths(prefix: str) -> int:
            return sum(s[0] for n, s in shapes.items() if n.startswith(prefix) and n.endswith(".q_proj.weight"))

        heads = [name for name in shapes if name.startswith("talker.code_predictor.lm_head.")]
        return cls(
            layers=entries(_TALKER),
            queries=widths(_TALKER),
            head=entries("talker.codec_head."),
            sub_layers=entries(_SUB_TALKER),
            sub_queries=widths(_SUB_TALKER),
            sub_heads=entries("talker.code_predictor.lm_head."),
            projection=entries("talker.code_predictor.small_to_mtp_projection."),
            codebooks=len(heads) + 1,
        )

    def of_sample(self, positions: float, frames: float, fraction: float, backward: float = 2.0) -> float:
        """FLOPs of training on one sample.

        Args:
            positions: the sample's length.
            frames: how many of them are frames; all are predicted, and so is the end.
            fraction: share of the frames on which the sub-talker is trained.
            backward: cost of the backward pass in forward passes: 2 if weights are trained, 1 if gradients only pass.
        """
        talker = 2 * self.layers * positions + 2 * self.queries * positions * (positions + 1)
        talker += 2 * self.head * (frames + 1)
        frame = 2 * (self.sub_layers + self.projection) * self.codebooks + 2 * self.sub_heads
        frame += 2 * self.sub_queries * self.codebooks * (self.codebooks + 1)
        if self.codebooks < 2:
            frame = 0
        return (1 + backward) * (talker + fraction * frames * frame)
