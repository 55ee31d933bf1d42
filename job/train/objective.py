"""The training loss: exactly the log-probabilities that generation samples from.

Talker: the logits of position p against the book-0 token that `generate` would sample there; no shift here and none in
the library. Sub-talker: for a frame at position p the sequence [hidden(p-1), e0(c0), e1(c1) ... e14(c14)], whose
position i+1 predicts book i+1 with head i, as `code_predictor.forward` does step by step. The library's own
`forward_sub_talker_finetune` is not used: its loss shifts the labels once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from job.train.batch import Batch


@dataclass
class Losses:
    """Sums of negative log-probabilities (nats) and how many terms they have."""

    talker: torch.Tensor
    talker_terms: int
    sub_talker: torch.Tensor
    sub_talker_terms: int


class Objective(nn.Module):
    """A `Qwen3TTSForConditionalGeneration` with a forward pass that returns the loss of a `Batch`.

    It is a module so that autocast, DistributedDataParallel and compilation can wrap it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def talker(self) -> Any:
        """The talker, `Qwen3TTSTalkerForConditionalGeneration`."""
        return self.model.talker

    def forward(self, batch: Batch, frame_fraction: float = 1.0) -> Losses:
        """Loss sums of a batch.

        Args:
            batch: from `collate`.
            frame_fraction: share of the predicted frames that the sub-talker is trained on, chosen at random; its sum
                is scaled up by the share, so its expectation is that of all frames.
        """
        logits, hidden, books = self.talker_pass(batch)
        talker = F.cross_entropy(logits.float(), batch.labels, reduction="sum")
        frame_rows, positions, scale = batch.frame_rows, batch.hidden_positions, 1.0
        if frame_fraction < 1.0:
            keep = max(1, round(frame_fraction * len(frame_rows)))
            chosen = torch.randperm(len(frame_rows), device=frame_rows.device)[:keep]
            scale = len(frame_rows) / keep
            frame_rows, positions = frame_rows[chosen], positions[chosen]
        codes = batch.frames[frame_rows]
        sub_talker = talker.new_zeros(())
        if codes.shape[1] > 1:
            head_logits = self.sub_talker_pass(hidden[positions], books[frame_rows])
            for book, logit in enumerate(head_logits, start=1):
                sub_talker = sub_talker + F.cross_entropy(logit.float(), codes[:, book], reduction="sum")
        return Losses(
            talker=talker,
            talker_terms=len(batch.labels),
            sub_talker=sub_talker * scale,
            sub_talker_terms=len(batch.frame_rows) * (codes.shape[1] - 1),
        )

    def talker_pass(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run the talker.

        Returns:
            logits (M, V) of the labelled positions only, hidden states (B * L, D), and the code embeddings of every
            frame (F, books, D), which the sub-talker shares.
        """
        inner = self.talker.model
        text = self.talker.text_projection(inner.text_embedding(batch.text_rows))
        tables = [inner.codec_embedding, *self.talker.code_predictor.get_input_embeddings()]
        books = torch.stack([table(batch.frames[:, b]) for b, table in enumerate(tables)], dim=1)
        special = inner.codec_embedding(batch.codec_rows)
        table = torch.cat(
            [special.new_zeros(1, special.shape[1]), special, books.sum(1), batch.speakers.to(special.dtype)]
        )
        inputs = text[batch.text_index] + table[batch.codec_index]
        hidden = inner(
            inputs_embeds=inputs, attention_mask=batch.attention_mask, use_cache=False, output_hidden_states=False
        ).last_hidden_state
        hidden = hidden.reshape(-1, hidden.shape[-1])
        return self.talker.codec_head(hidden[batch.label_positions]), hidden, books

    def sub_talker_pass(self, hidden: torch.Tensor, books: torch.Tensor) -> list[torch.Tensor]:
        """Logits of every head.

        Args:
            hidden: (N, D) hidden state before each frame.
            books: (N, books, D) code embeddings of the frame; the last book's is not fed.

        Returns:
            for head i the logits (N, V) of book i + 1.
        """
        predictor = self.talker.code_predictor
        inputs = torch.cat([hidden.unsqueeze(1), books[:, :-1].to(hidden.dtype)], dim=1)
        outputs = predictor.model(inputs_embeds=predictor.small_to_mtp_projection(inputs), use_cache=False)
        states = outputs.last_hidden_state
        return [head(states[:, i + 1]) for i, head in enumerate(predictor.lm_head)]
