"""From sequences to the tensors of one step.

Everything that is index arithmetic is done here, on the CPU, so that the forward pass is gathers and matrix products:
distinct text ids are projected once, and every position of the codec channel names its row in one table.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from job.train.layout import IGNORED, Sequence


@dataclass
class Batch:
    """B samples, right-padded to L positions; F frames in all, N of them predicted.

    Attributes:
        text_rows: (U,) distinct text ids.
        text_index: (B, L) index into `text_rows`.
        codec_rows: (C,) distinct ids of the codec embedding.
        frames: (F, books) codes of all frames, samples one after the other.
        speakers: (B, D) speaker vectors, fp32.
        codec_index: (B, L) index into the table [zero | codec_rows | frames | speakers].
        attention_mask: (B, L) 1 where there is a position.
        label_positions: (M,) flat positions (b * L + p) that predict a book-0 token.
        labels: (M,) that token.
        frame_rows: (N,) index into `frames` of the predicted frames.
        hidden_positions: (N,) flat position whose hidden state the sub-talker continues from: the one before the
            frame, which is `past_hidden` of generation.
    """

    text_rows: torch.Tensor
    text_index: torch.Tensor
    codec_rows: torch.Tensor
    frames: torch.Tensor
    speakers: torch.Tensor
    codec_index: torch.Tensor
    attention_mask: torch.Tensor
    label_positions: torch.Tensor
    labels: torch.Tensor
    frame_rows: torch.Tensor
    hidden_positions: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return Batch(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    @property
    def target_frames(self) -> int:
        """Predicted frames."""
        return len(self.frame_rows)


def collate(sequences: list[Sequence], speakers: list[np.ndarray]) -> Batch:
    """Pad and index `sequences`; `speakers` holds each one's (D,) vector (unused where there is no slot)."""
    length = max(len(s) for s in sequences)
    count = len(sequences)
    text = np.zeros((count, length), dtype=np.int64)
    codec = np.full((count, length), -1, dtype=np.int64)
    frame = np.full((count, length), -1, dtype=np.int64)
    labels = np.full((count, length), IGNORED, dtype=np.int64)
    mask = np.zeros((count, length), dtype=np.int64)
    speaker = np.full((count, length), -1, dtype=np.int64)
    frame_rows, hidden_positions, offset = [], [], 0
    for b, s in enumerate(sequences):
        n = len(s)
        text[b, :n], codec[b, :n], labels[b, :n], mask[b, :n] = s.text_ids, s.codec_ids, s.labels, 1
        text[b, n:] = s.text_ids[0]  # any id that is looked up anyway: padding is masked
        frame[b, :n] = np.where(s.frame_index >= 0, s.frame_index + offset, -1)
        if s.speaker_position >= 0:
            speaker[b, s.speaker_position] = b
        predicted = np.flatnonzero(s.frame_index >= s.first_target)
        frame_rows.append(s.frame_index[predicted] + offset)
        hidden_positions.append(b * length + predicted - 1)
        offset += len(s.frames)

    text_rows, text_index = np.unique(text, return_inverse=True)
    codec_rows, codec_inverse = np.unique(codec, return_inverse=True)  # the first row is -1: there is always padding
    codec_rows = codec_rows[1:]
    table = codec_inverse.reshape(codec.shape)
    table = np.where(frame >= 0, 1 + len(codec_rows) + frame, table)
    table = np.where(speaker >= 0, 1 + len(codec_rows) + offset + speaker, table)
    positions = np.flatnonzero(labels.reshape(-1) != IGNORED)
    return Batch(
        text_rows=torch.from_numpy(text_rows),
        text_index=torch.from_numpy(text_index.reshape(text.shape)),
        codec_rows=torch.from_numpy(codec_rows),
        frames=torch.from_numpy(np.concatenate([s.frames for s in sequences]).astype(np.int64)),
        speakers=torch.from_numpy(np.stack(speakers).astype(np.float32)),
        codec_index=torch.from_numpy(table),
        attention_mask=torch.from_numpy(mask),
        label_positions=torch.from_numpy(positions),
        labels=torch.from_numpy(labels.reshape(-1)[positions]),
        frame_rows=torch.from_numpy(np.concatenate(frame_rows)),
        hidden_positions=torch.from_numpy(np.concatenate(hidden_positions)),
    )
