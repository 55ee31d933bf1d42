"""From sequences to the tensors of one step.

Everything that is index arithmetic is done here, on the CPU, so that the forward pass is gathers and matrix products:
distinct text ids are projected once, and every position of the codec channel names its row in one table.
Samples stand one after the other in one row (packed), or each in a row of its own (padded).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from job.train.layout import IGNORED, Sequence


@dataclass
class Batch:
    """S samples in B rows of L positions (packed: B = 1; padded: B = S); F frames in all, N of them predicted.

    Attributes:
        text_rows: (U,) distinct text ids.
        text_index: (B, L) index into `text_rows`.
        codec_rows: (C,) distinct ids of the codec embedding.
        frames: (F, books) codes of all frames, samples one after the other.
        speakers: (S, D) speaker vectors, fp32.
        codec_index: (B, L) index into the table [zero | codec_rows | frames | speakers].
        attention_mask: (B, L) 1 where there is a position.
        position_ids: (B, L) number of the position in its sample.
        bounds: (S + 1,) int32, where samples begin and end when they stand one after the other.
        label_positions: (M,) flat positions (b * L + p) that predict a book-0 token.
        labels: (M,) that token.
        frame_rows: (N,) index into `frames` of the predicted frames.
        hidden_positions: (N,) flat position whose hidden state the sub-talker continues from: the one before the
            frame, which is `past_hidden` of generation.
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
    lengths: list[int] | None

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; without waiting for the copy when it is in pinned memory."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU copies from while it computes."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "lengths"}
        return Batch(**{name: function(tensor) for name, tensor in tensors.items()}, lengths=self.lengths)

    @property
    def target_frames(self) -> int:
        """Predicted frames."""
        return len(self.frame_rows)


def collate(sequences: list[Sequence], speakers: list[NDArray[np.float32]], *, packed: bool = False) -> Batch:
    """Index `sequences` and put them side by side.

    Args:
        sequences: the samples.
        speakers: each one's (D,) vector (unused where there is no slot).
        packed: all in one row, one after the other; otherwise a row each, padded on the right to the longest.
    """
    lengths = [len(s) for s in sequences]
    bounds = np.cumsum([0, *lengths])
    rows, length = (1, int(bounds[-1])) if packed else (len(sequences), max(lengths))
    starts = bounds[:-1] if packed else np.arange(rows) * length
    size = rows * length
    text = np.full(size, sequences[0].text_ids[0])  # an id that is looked up anyway: padding is masked
    codec = np.full(size, -1, dtype=np.int64)
    frame, speaker = np.full_like(codec, -1), np.full_like(codec, -1)
    labels, mask, position = np.full_like(codec, IGNORED), np.zeros_like(codec), np.zeros_like(codec)
    frame_rows, hidden_positions, offset = [], [], 0
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
        offset += len(s.frames)

    text_rows, text_index = np.unique(text, return_inverse=True)
    codec_rows, table = np.unique(codec, return_inverse=True)  # the first is -1: of the role tokens
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
        lengths=lengths if packed else None,
    )
