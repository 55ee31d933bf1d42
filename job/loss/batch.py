"""Collation of sequences into the tensors of one step.

All index arithmetic is done here, on the CPU, so that the forward pass consists of gathers and matrix products:
distinct text ids are projected once, and every position of the codec channel indexes its row in one table.
Samples are either concatenated in one row (packed), or each has a row of its own (padded).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from job.loss.layout import IGNORED, Sequence

#: 1 / golden ratio: the number whose multiples (mod 1) are spread over the circle most evenly.
GOLDEN = (5**0.5 - 1) / 2


@dataclass
class Batch:
    """S samples in B rows of L positions (packed: B = 1; padded: B = S); F frames in all, N of them predicted.

    Attributes:
        text_rows: (U,) distinct text ids.
        text_index: (B, L) index into `text_rows`.
        codec_rows: (C,) distinct ids of the codec embedding.
        frames: (F, codebooks) codes of all frames, samples concatenated.
        speakers: (S, D) speaker vectors, fp32.
        codec_index: (B, L) index into the table [zero | codec_rows | frames | speakers].
        attention_mask: (B, L) 1 at positions, 0 at padding.
        position_ids: (B, L) index of the position within its sample.
        bounds: (S + 1,) int32, start of each sample and end of the last, when samples are concatenated.
        label_positions: (M,) flat positions (b * L + p) that predict a first-codebook token.
        labels: (M,) that token.
        frame_rows: (N,) index into `frames` of the predicted frames.
        hidden_positions: (N,) flat position whose hidden state the sub-talker continues from: the one before the
            frame, which is `past_hidden` of generation.
        chosen: (n,) index into `frame_rows` of the frames for the sub-talker: all of them, or those of a `turn`.
        chosen_scale: factor on the sum of their losses that makes it an estimate for all N.
        places: (N,) from 0 to 1, the places by which a `turn` chooses.
        lengths: S lengths of a packed row; None when padded.
    """

    text_rows: torch.Tensor
    text_index: torch.Tensor
    codec_rows: torch.Tensor
    frames: torch.Tensor
    speakers: torch.Tensor
    codec_index: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    bounds: torch.Tensor
    label_positions: torch.Tensor
    labels: torch.Tensor
    frame_rows: torch.Tensor
    hidden_positions: torch.Tensor
    chosen: torch.Tensor
    chosen_scale: float
    places: NDArray[np.float64]
    lengths: list[int] | None

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to `device`, asynchronously from pinned memory."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Copy the batch to pinned memory, from which a GPU can copy while it computes."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {n: function(v) if isinstance(v, torch.Tensor) else v for n, v in values.items()}
        return Batch(**moved)

    def turn(self, fraction: float, visit: int = 0) -> Batch:
        """Choose a share of the frames for the sub-talker, a different one on every visit.

        Frame j of a sample has its place at phase + j / golden ratio (mod 1) on a circle, and a visit takes the places
        in [start, start + fraction), where start advances by `fraction` each time. Over uniform random phases each
        frame is chosen with probability `fraction`, so that a sum over the chosen ones, divided by it, is unbiased;
        1 / fraction visits (if an integer) choose each frame once; and the multiples of the golden ratio are spread so
        evenly (three-gap theorem, Sós 1958) that every visit chooses equally many, from all over a sample.

        Args:
            fraction: above 0; from 1 on, all frames.
            visit: 0, 1, ...
        """
        if fraction >= 1.0:
            return replace(self, chosen=torch.arange(self.target_frames), chosen_scale=1.0)
        chosen = np.flatnonzero((self.places - _start(fraction, visit)) % 1.0 < fraction)
        return replace(self, chosen=torch.from_numpy(chosen), chosen_scale=1 / fraction)

    @property
    def target_frames(self) -> int:
        """Number of predicted frames."""
        return len(self.frame_rows)


def _start(fraction: float, visit: int) -> float:
    """Compute where on the circle a visit starts to choose frames.

    It advances by `fraction`. After a full round of q visits it advances by one step more, after q rounds by another,
    and so on. Otherwise it would stay in phase with what alternates between visits (`Rows.variant`: layout, language),
    and half of the frames would only ever be trained in one layout. For q = 2 this is the Thue-Morse sequence, of which
    every second and every fourth value are as balanced as the whole.
    """
    steps = Fraction(fraction).limit_denominator(64).denominator
    start, rounds = visit * fraction, visit // steps
    while rounds and steps > 1:
        start, rounds = start + rounds / steps, rounds // steps
    return start % 1.0


def collate(
    sequences: list[Sequence],
    speakers: list[NDArray[np.float32]],
    *,
    packed: bool = False,
    phases: list[float] | None = None,
) -> Batch:
    """Collate `sequences` into one batch.

    Args:
        sequences: the samples.
        speakers: the (D,) vector of each sample (unused without a speaker slot).
        phases: a number from 0 to 1 for each sample, the phase in `Batch.turn`.
    """
    lengths = [len(s) for s in sequences]
    bounds = np.cumsum([0, *lengths])
    rows, length = (1, int(bounds[-1])) if packed else (len(sequences), max(lengths))
    starts = bounds[:-1] if packed else np.arange(rows) * length
    size = rows * length
    text = np.full(size, sequences[0].text_ids[0])  # padding is masked, so any id that is looked up anyway will do
    codec = np.full(size, -1, dtype=np.int64)
    frame, speaker = np.full_like(codec, -1), np.full_like(codec, -1)
    labels, mask, position = np.full_like(codec, IGNORED), np.zeros_like(codec), np.zeros_like(codec)
    frame_rows, hidden_positions, places, offset = [], [], [], 0
    for number, (s, start) in enumerate(zip(sequences, starts, strict=True)):
        here = slice(start, start + len(s))
        text[here], codec[here], labels[here], mask[here] = s.text_ids, s.codec_ids, s.labels, 1
        position[here] = np.arange(len(s))
        frame[here] = np.where(s.frame_index >= 0, s.frame_index + offset, -1)
        if s.speaker_position >= 0:
            speaker[start + s.speaker_position] = number
        predicted = np.flatnonzero(s.frame_index >= s.first_target)
        frame_rows.append(s.frame_index[predicted] + offset)
        hidden_positions.append(start + predicted - 1)
        places.append(((phases[number] if phases else 0.0) + np.arange(len(predicted)) * GOLDEN) % 1.0)
        offset += len(s.frames)

    text_rows, text_index = np.unique(text, return_inverse=True)
    codec_rows, table = np.unique(codec, return_inverse=True)  # the first is -1, from the role tokens
    codec_rows = codec_rows[1:]
    table = np.where(frame >= 0, 1 + len(codec_rows) + frame, table)
    table = np.where(speaker >= 0, 1 + len(codec_rows) + offset + speaker, table)
    labelled = np.flatnonzero(labels != IGNORED)
    grid = (rows, length)
    return Batch(
        text_rows=torch.from_numpy(text_rows),
        text_index=torch.from_numpy(text_index.reshape(grid)),
        codec_rows=torch.from_numpy(codec_rows),
        frames=torch.from_numpy(np.concatenate([s.frames for s in sequences]).astype(np.int64)),
        speakers=torch.from_numpy(np.stack(speakers).astype(np.float32)),
        codec_index=torch.from_numpy(table.reshape(grid)),
        attention_mask=torch.from_numpy(mask.reshape(grid)),
        position_ids=torch.from_numpy(position.reshape(grid)),
        bounds=torch.from_numpy(bounds.astype(np.int32)),
        label_positions=torch.from_numpy(labelled),
        labels=torch.from_numpy(labels[labelled]),
        frame_rows=torch.from_numpy(np.concatenate(frame_rows)),
        hidden_positions=torch.from_numpy(np.concatenate(hidden_positions)),
        chosen=torch.arange(sum(map(len, frame_rows))),
        chosen_scale=1.0,
        places=np.concatenate(places),
        lengths=lengths if packed else None,
    )
