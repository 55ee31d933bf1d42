"""The next token, chosen from logits as transformers' `generate` chooses it."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class Choice:
    """How tokens are drawn: the arguments of `generate` that stock `qwen_tts` passes, with their meaning there.

    Attributes:
        do_sample: draw; otherwise take the likeliest, and `temperature`, `top_k` and `top_p` mean nothing.
        temperature: divides the logits.
        top_k: only this many of the likeliest are drawn from; 0 for all.
        top_p: only the likeliest that make up this probability are drawn from.
        repetition_penalty: divides positive logits of tokens that were drawn before, multiplies negative ones.
        suppressed: (V,) true for tokens that are never drawn.
        end: the token that the first `min_new_tokens` are not; None for none.
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
        """Logits (B, V) -> what is drawn from, fp32, the impossible ones at minus infinity.

        The order is that of `GenerationMixin._get_logits_processor`.

        Args:
            drawn: tokens that were drawn before, of each sequence.
            seen: (B, V) which tokens these are; needed with a repetition penalty only.
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
        if not self.do_sample:
            return scores
        if self.temperature != 1.0:
            scores = scores / self.temperature
        if self.top_k:
            least = torch.topk(scores, min(self.top_k, scores.shape[-1])).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        if self.top_p < 1.0:
            ascending, order = scores.sort(dim=-1)
            removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - self.top_p
            removed[:, -1] = False
            scores = scores.masked_fill(removed.scatter(1, order, removed), -torch.inf)
        return scores

    def __call__(self, logits: torch.Tensor, drawn: int = 0, seen: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (B, V) -> tokens (B,). The same seed gives the draws that `torch.multinomial` gives.

        Its way for a single draw (p / q is largest for token i with probability p_i when the q are exponentially
        distributed) without its look at the values, for which a GPU would have to be waited for.
        """
        scores = self.scores(logits, drawn, seen)
        if not self.do_sample:
            return _largest(scores)
        probabilities = scores.softmax(dim=-1)
        return _largest(probabilities / torch.empty_like(probabilities).exponential_())


def _largest(values: torch.Tensor) -> torch.Tensor:
    """The first place of the largest value in each row (B, V), in a CPU's faster way."""
    return values.max(dim=-1).indices if values.device.type == "cpu" else values.argmax(dim=-1)
