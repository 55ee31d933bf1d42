"""The training loss: exactly the log-probabilities that generation samples from.

Talker: cross-entropy of the logits at position p with the codebook-0 token that `generate` would sample there; no shift
here and none in the library. Sub-talker: for a frame at position p the sequence [hidden(p-1), e0(c0), e1(c1) ...
e14(c14)], whose position i+1 predicts codebook i+1 with head i, as `code_predictor.forward` does step by step. The
library's own `forward_sub_talker_finetune` is not used: its loss shifts the labels once too often.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from job.fast import attention
from job.loss.batch import Batch
from job.loss.chunked import summed
from job.loss.codebooks import look_up

#: Predicted tokens whose logits are in memory at the same time: 4096 x 3072 in fp32 are 50 MB.
TOKENS_AT_ONCE = 4096
#: Frames that the sub-talker processes at once, 16 positions each: enough to keep the device busy.
FRAMES_AT_ONCE = {"cuda": 1024, "cpu": 512}


class Losses(NamedTuple):
    """Sums of negative log-probabilities (nats), and their numbers of terms.

    A tuple, because FSDP searches outputs for tensors on which to hook the start of its backward pass.
    """

    talker: torch.Tensor
    talker_terms: int
    sub_talker: torch.Tensor
    sub_talker_terms: int


class Objective(nn.Module):
    """A `Qwen3TTSForConditionalGeneration` with a forward pass that returns the loss of a `Batch`.

    It is a module so that autocast, FSDP and compilation can wrap it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def talker(self) -> Any:
        """The talker, `Qwen3TTSTalkerForConditionalGeneration`."""
        return self.model.talker

    def forward(self, batch: Batch) -> Losses:
        """Compute a batch's loss sums; the sub-talker's covers the batch's chosen frames, scaled up to all frames."""
        rows, positions = batch.frame_rows[batch.chosen], batch.hidden_positions[batch.chosen]
        hidden, codebooks = self._talker_states(batch, rows)
        head = self.talker.codec_head
        labelled = hidden[batch.label_positions]
        talker = summed(
            lambda states, labels: _cross_entropy(head(states), labels),
            labelled, batch.labels, head.parameters(), TOKENS_AT_ONCE,
        )  # fmt: skip
        codes = batch.frames[rows]
        sub_talker = talker.new_zeros(())
        if codes.shape[1] > 1 and len(codes):
            inputs = self._sub_talker_inputs(hidden[positions], codebooks)
            embeddings = {id(table.weight) for table in self._tables}  # looked up above
            inner = [p for p in self.talker.code_predictor.parameters() if id(p) not in embeddings]
            at_once = FRAMES_AT_ONCE.get(inputs.device.type, FRAMES_AT_ONCE["cuda"])
            sub_talker = summed(self._sub_talker_loss, inputs, codes, inner, at_once)
        return Losses(
            talker=talker,
            talker_terms=len(batch.labels),
            sub_talker=sub_talker * batch.chosen_scale,
            sub_talker_terms=batch.target_frames * (codes.shape[1] - 1),
        )

    @property
    def _tables(self) -> list[nn.Embedding]:
        """The embedding table of each codebook."""
        return [self.talker.model.codec_embedding, *self.talker.code_predictor.get_input_embeddings()]

    def _talker_states(self, batch: Batch, fed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the talker: final hidden states (B * L, D), and embeddings (n, codebooks - 1, D) of the frames `fed`."""
        inner = self.talker.model
        text = self.talker.text_projection(inner.text_embedding(batch.text_rows))
        frames, special, codebooks = look_up(
            [table.weight for table in self._tables], batch.frames, batch.codec_rows, fed
        )
        nothing = special.new_zeros(1, special.shape[1])
        codec = torch.cat([nothing, special, frames, batch.speakers.to(special.dtype)])
        # `embedding` instead of indexing: its gradient is faster and more reproducible.
        inputs = F.embedding(batch.text_index, text) + F.embedding(batch.codec_index, codec)
        states = inner(
            inputs_embeds=inputs,
            use_cache=False,
            output_hidden_states=False,
            **attention.arguments(inner.config, batch),
        ).last_hidden_state
        return states.reshape(-1, states.shape[-1]), codebooks

    def _sub_talker_inputs(self, hidden: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
        """Join hidden states (N, D) and embeddings (N, codebooks - 1, D) into sequences (N, codebooks, D)."""
        return torch.cat([hidden.unsqueeze(1), codebooks.to(hidden.dtype)], dim=1)

    def _sub_talker_states(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the sub-talker: (N, codebooks, D) -> (N, codebooks - 1, d), from which head i predicts codebook i + 1."""
        predictor = self.talker.code_predictor
        states = predictor.model(inputs_embeds=predictor.small_to_mtp_projection(inputs), use_cache=False)
        return cast(torch.Tensor, states.last_hidden_state[:, 1:])

    def _sub_talker_loss(self, inputs: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Sum the loss over frames and codebooks: `inputs` (n, codebooks, D), `codes` (n, codebooks)."""
        states = self._sub_talker_states(inputs)
        parts = zip(self.talker.code_predictor.lm_head, states.unbind(1), codes.unbind(1)[1:], strict=True)
        return torch.stack([_cross_entropy(head(of_codebook), labels) for head, of_codebook, labels in parts]).sum()


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), labels, reduction="sum")
