"""Estimate the memory of activations and gradients from shapes, settings and the batch, without torch.

Under autocast a weight that is not in bf16 is kept as a bf16 copy as well. The losses are differentiated chunk by chunk
in the forward pass (`job.loss.chunked`): all that the talker keeps is there while a chunk goes through the sub-talker,
and the gradient of the sub-talker's weights exists twice from the second chunk on. That moment, the first talker
layer's backward pass or the last one's is the peak: `Working` has all of them.

What a layer keeps is in `layer_bytes.py`, the sub-talker's chunks are in `sub_talker_bytes.py`.

tests/test_activations.py holds this against the storages that exist while the real objective runs.
"""

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
from job.estimate.sub_talker_bytes import Chunks, SubTalker, cut
from job.modes import mode_of

TALKER = "talker.model."
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
    from job.loss.objective import FRAMES_AT_ONCE, TOKENS_AT_ONCE

    types = types or Types.of(settings)
    low = types.compute
    talker = Stack.of(shapes, TALKER, stream=max(low, types.codec), packed=True)
    own, frozen = mode_of(settings).layers(settings, talker.layers)
    everything = not mode_of(settings).adapters
    states = max(talker.stream, types.trained if everything else types.frozen)  # bytes of the last norm's output
    width, checkpointing = talker.width, settings.gradient_checkpointing

    # ---- the talker
    layers = own * talker.checkpointed(types, kind_of(settings), checkpointing)
    layers += frozen * talker.checkpointed(types, Kind(), checkpointing)
    most = max(talker.layer(types, kind_of(settings)) if own else 0, talker.layer(types, Kind()) if frozen else 0)
    a_position = layers + width * talker.stream + 4 + width * states + _INDEX_BYTES
    kept = load.positions * a_position
    kept += own * adapter_copies(talker, types, kind_of(settings), checkpointing)
    projection = by_projection = 0  # copies of its weights; those of the second are kept until the backward pass
    if settings.train_text_projection:
        up, down = (shapes[f"talker.text_projection.linear_fc{number}.weight"] for number in (1, 2))
        kept += 3 * load.texts * up[1] * low
        by_projection = types.trained * (math.prod(up) + math.prod(down))
        if types.trained != low:
            kept += low * math.prod(down)
            projection = low * math.prod(up)
    copied = 0 if sharded else own * has_copies(types, trained=everything) + frozen * has_copies(types, trained=False)
    copies = low * talker.entries * copied
    differentiated = talker.backward(types, kind_of(settings))
    made = talker.made(types, kind_of(settings), checkpointing) if checkpointing else 0
    in_backward = load.positions * (differentiated + width * states + made)

    # ---- the output head and the sub-talker, chunk by chunk
    labels = load.frames + load.samples
    by_labels = labels * width * states
    head = shapes["talker.codec_head.weight"]
    at_once = cut(labels, TOKENS_AT_ONCE)[1]
    # The logarithms of probabilities, and the gradients of a choice among them and of the logits.
    head_chunk = at_once * (width * low + head[0] * 12)
    head_gradients = gradient_bytes(settings, types, {"talker.codec_head.weight": head})
    sub = SubTalker.of(shapes, settings, types, states)
    frames = max(1, round(settings.sub_talker_frame_fraction * load.frames)) if sub else 0
    fed = frames * sub.codebooks * width * states if sub else 0
    copied_head = has_copies(types, trained=everything)
    copies += projection + low * math.prod(head) * copied_head
    of_sub = sub.weights if sub else 0
    read = sets = 0
    chunks = Chunks()
    if sub:
        # The embeddings, before they are put beside the states.
        read = frames * (sub.codebooks - 1) * width * types.codec
        sets = sub.gradients
        chunks = sub.chunks(frames, fed, FRAMES_AT_ONCE["cuda"])
    earlier = 0 if whole else gradients
    held = kept + copies + read + earlier
    # The first chunk's gradients are there when the next one is computed.
    in_head = held + (2 * by_labels + head_gradients if labels > at_once else by_labels) + head_chunk
    in_sub = held + 2 * by_labels + head_gradients + of_sub + fed + chunks.peak
    # What is recomputed makes its copies again; those of layers already differentiated have been freed.
    recomputed = {True: talker.entries, "selective": 3 * talker.inner * width}.get(checkpointing, 0)
    in_layers = low * (talker.entries - recomputed) * copied
    first = kept + in_layers + sets + head_gradients + earlier - load.positions * width * states
    # What is looked up gets its gradients last, those by the sub-talker's inputs have waited for it.
    tables = sum(math.prod(s) for n, s in shapes.items() if ".codec_embedding." in n) * types.trained * everything
    looked_up, fed_back = (load.frames + frames) * width * types.codec * everything, fed * everything
    late = gradients - tables - by_projection
    late += max(tables + looked_up, load.positions * (most + differentiated)) + fed_back
    flash = (load.positions + FLASH_ROWS * load.samples) * talker.queries * 4
    return Working(
        kept=kept + copies + of_sub,
        chunk=chunks.largest,
        forward=max(in_head, in_sub),
        backward=first + max(by_labels + fed, fed_back + in_backward),
        late=max(late, gradients + projection),  # text_projection is the last
        in_kernels=max(chunks.in_kernels, flash),
    )
