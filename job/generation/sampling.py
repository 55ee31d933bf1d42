"""Choose the next token from logits in the same way as transformers' `generate`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: Number of candidates beyond TOP_K: tokens tied with the last of the TOP_K are sampled from, too.
TIES = 14


@dataclass
class Choice:
    """Sampling settings: the arguments of `generate` that stock `qwen_tts` passes, with the same meaning.

    Attributes:
        do_sample: sample; otherwise take the most likely token and ignore `temperature`, `top_k` and `top_p`.
        temperature: divides the logits.
        top_k: sample only from this many most likely tokens; 0 for all.
        top_p: sample only from the most likely tokens that make up this probability.
        repetition_penalty: divides positive logits of tokens that were drawn before, multiplies negative ones.
        suppressed: (V,) true for tokens that are never drawn.
        end: the end token, which is not allowed in the first `min_new_tokens`; None for none.
    """

    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float = 1.0
    suppressed: torch.Tensor | None = None
    end: int | None = None
    min_new_tokens: int = 0

    def scores(self, logits: torch.Tensor, drawn: int, seen: torch.Tensor | None) -> torch.Tensor:
        """Apply all settings except `top_k` and `top_p` to logits (B, V); fp32, excluded tokens at minus infinity.

        The order, here and in `likeliest`, is that of `GenerationMixin._get_logits_processor`.

        Args:
            drawn: number of tokens drawn before in each sequence.
            seen: (B, V) which tokens these are; only needed with a repetition penalty.
        """
        scores = logits.float()
        if self.repetition_penalty != 1.0:
            assert seen is not None
            penalty = self.repetition_penalty
            penalized = torch.where(scores < 0, scores * penalty, scores / penalty)
            scores = torch.where(seen, penalized, scores)
        if self.end is not None and drawn < self.min_new_tokens:
            scores = scores.index_fill(1, torch.tensor([self.end], device=scores.device), -torch.inf)
        if self.suppressed is not None:
            scores = scores.masked_fill(self.suppressed, -torch.inf)
        return scores / self.temperature if self.do_sample and self.temperature != 1.0 else scores

    def likeliest(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The scores (B, n) to sample from, in descending order, and their tokens (B, n), from scores (B, V).

        Excluded ones among the n are at minus infinity and come last.
        """
        size = scores.shape[-1]
        kept, tokens = scores.topk(min(self.top_k + TIES, size) if self.top_k else size)
        if self.top_k and self.top_k < size:
            kept = kept.masked_fill(kept < kept[:, self.top_k - 1, None], -torch.inf)
        if self.top_p < 1.0:
            removed = kept.flip(-1).softmax(dim=-1).cumsum(dim=-1).flip(-1) <= 1 - self.top_p
            removed[:, 0] = False
            kept = kept.masked_fill(removed, -torch.inf)
        return kept, tokens

    def __call__(self, logits: torch.Tensor, drawn: int = 0, seen: torch.Tensor | None = None) -> torch.Tensor:
        """Choose tokens (B,) from logits (B, V).

        Takes the token at which the cumulative probability, largest first, reaches a random number. This needs one
        random number per sequence, where `torch.multinomial` needs one per token of the vocabulary, and does not
        synchronise with the GPU.
        """
        scores = self.scores(logits, drawn, seen)
        if not self.do_sample:
            return _largest(scores)
        kept, tokens = self.likeliest(scores)
        reached = kept.softmax(dim=-1).cumsum(dim=-1)
        # In (0, 1], times the rounded sum of probabilities: a token with probability 0 is never reached.
        wanted = (1 - torch.rand(len(kept), 1, device=kept.device)) * reached[:, -1:]
        return tokens.gather(1, (reached < wanted).sum(dim=-1, keepdim=True))[:, 0]


def _largest(values: torch.Tensor) -> torch.Tensor:
    """The first index of the largest value in each row (B, V), in a way that is faster on a CPU."""
    return values.max(dim=-1).indices if values.device.type == "cpu" else values.argmax(dim=-1)
