"""The next token, chosen from logits as transformers' `generate` chooses it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: Tokens looked at beyond TOP_K: those that are as likely as the last of it are drawn from too.
TIES = 14


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
        """Logits (B, V) -> what is chosen by, fp32, the impossible ones at minus infinity; all but `top_k` and `top_p`.

        The order, here and in `likeliest`, is that of `GenerationMixin._get_logits_processor`.

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
        return scores / self.temperature if self.do_sample and self.temperature != 1.0 else scores

    def likeliest(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B, V) -> those that are drawn from (B, n), falling, and their tokens (B, n).

        Excluded ones among the n are at minus infinity, and come last.
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
        """Logits (B, V) -> tokens (B,).

        A token is drawn where the sum of the probabilities, the largest first, reaches a random number. It takes one
        number for each sequence, where `torch.multinomial` takes one for each token of the vocabulary, and no look at
        the values, for which a GPU would have to be waited for.
        """
        scores = self.scores(logits, drawn, seen)
        if not self.do_sample:
            return _largest(scores)
        kept, tokens = self.likeliest(scores)
        reached = kept.softmax(dim=-1).cumsum(dim=-1)
        # In (0, 1], of the sum that rounding left of 1: what has no probability is never reached.
        wanted = (1 - torch.rand(len(kept), 1, device=kept.device)) * reached[:, -1:]
        return tokens.gather(1, (reached < wanted).sum(dim=-1, keepdim=True))[:, 0]


def _largest(values: torch.Tensor) -> torch.Tensor:
    """The first place of the largest value in each row (B, V), in a CPU's faster way."""
    return values.max(dim=-1).indices if values.device.type == "cpu" else values.argmax(dim=-1)
