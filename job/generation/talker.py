"""A fast `generate` for the talker, which stock `qwen_tts` calls in place of transformers'.

Stock code nests transformers' `generate` calls: for every frame it sets up, checks and tears down a whole generation
for the 15 steps of the sub-talker. Here both are plain loops over the same modules, with preallocated key-value caches.
Everything around them (prompts, truncation at the end token, the codec) remains stock code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from job.core.console import warn
from job.core.errors import first_line
from job.generation import recorded
from job.generation.recorded import Recorded, Work
from job.generation.sampling import Choice
from job.generation.stack import Stack, Unknown, joined

if TYPE_CHECKING:
    from qwen_tts import Qwen3TTSModel

#: Number of positions by which the caches grow.
BLOCK = 256
#: Settings of a model's `generation_config` that have no effect here.
HARMLESS = {"_from_model_config", "transformers_version", "bos_token_id", "pad_token_id", "eos_token_id", "use_cache"}


class FastTalker:
    """`generate` for a talker with several codebooks.

    Args:
        talker: `Qwen3TTSTalkerForConditionalGeneration`, in eval mode. Its weights are rearranged in memory; it can
            still be used as before.

    Raises:
        Unknown: it has a feature that this code does not support.
    """

    def __init__(self, talker: Any) -> None:
        predictor = talker.code_predictor
        self.codebooks = talker.config.num_code_groups
        if self.codebooks < 2:
            raise Unknown("a single codebook")
        for part in (talker, predictor):
            others = set(part.generation_config.to_diff_dict()) - HARMLESS
            if others:
                raise Unknown(f"generation settings in the model ({', '.join(sorted(others))})")
        if predictor.generation_config.eos_token_id is not None:
            raise Unknown("an end token of the sub-talker")
        self.talker, self.predictor = talker, predictor
        self.stack, self.sub_stack = Stack(talker.model), Stack(predictor.model)
        self._recorded: tuple[Any, Recorded, list[torch.Tensor]] | None = None
        self._unrecordable = False
        tables = [table.weight for table in predictor.get_input_embeddings()]
        self.rows = len(tables[0])
        with torch.no_grad():
            self.tables = joined(tables)
            # The sub-talker's input for a code depends only on the code.
            read = predictor.small_to_mtp_projection(self.tables)
            self.read = torch.split(read, self.rows)
            self.read_first = predictor.small_to_mtp_projection(talker.get_input_embeddings().weight)
            self.heads = [head.weight.data for head in predictor.lm_head]
            self.offsets = torch.arange(len(tables), device=self.tables.device) * self.rows
            # The sub-talker's steps are the same for every frame: the first reads two positions, the others one each.
            counted = torch.arange(self.codebooks, device=self.tables.device)[None]
            steps = torch.split(counted, [2] + [1] * (self.codebooks - 2), dim=1)
            self.rotations = [self.sub_stack.rotation(positions) for positions in steps]
            groups = self.sub_stack.heads // self.sub_stack.shared
            first_two = torch.tensor([[1, 0], [1, 1]], device=self.tables.device)
            self.first_mask = _additive(first_two, self.tables.dtype)[:, 0, 0].repeat(groups, 1)  # type: ignore[index]

    @torch.no_grad()
    def generate(
        self,
        *,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        trailing_text_hidden: torch.Tensor,
        tts_pad_embed: torch.Tensor,
        max_new_tokens: int,
        min_new_tokens: int,
        do_sample: bool,
        top_k: int,
        top_p: float,
        temperature: float,
        repetition_penalty: float,
        suppress_tokens: list[int],
        eos_token_id: int,
        subtalker_dosample: bool,
        subtalker_top_k: int,
        subtalker_top_p: float,
        subtalker_temperature: float,
        output_hidden_states: bool = True,
        return_dict_in_generate: bool = True,
    ) -> Any:
        """Generate frames until every sequence has ended or has `max_new_tokens` tokens of codebook 0.

        Args:
            inputs_embeds: (B, P, D) the prompts, padded on the left.
            attention_mask: (B, P) 0 for padding.
            trailing_text_hidden: (B, T, D) the text channel of frame 0, 1, ...; after it `tts_pad_embed` (1, 1, D).

        Returns:
            an object with what stock `Qwen3TTSForConditionalGeneration.generate` reads: `sequences` (B, n) of tokens of
            the first codebook and `hidden_states`, for each token the last layer's state (B, 1, D) in a tuple and the
            frame (B, codebooks) that was read before it, None the first time.
        """
        batch, prompt, _ = inputs_embeds.shape
        device = inputs_embeds.device
        suppressed = torch.zeros(self.talker.config.vocab_size, dtype=torch.bool, device=device)
        suppressed[suppress_tokens] = True
        choose = Choice(
            do_sample, temperature, top_k, top_p, repetition_penalty, suppressed, eos_token_id, min_new_tokens
        )
        choose_code = Choice(subtalker_dosample, subtalker_temperature, subtalker_top_k, subtalker_top_p)
        pad = self.talker.generation_config.pad_token_id
        pad = eos_token_id if pad is None else pad
        seen = torch.zeros(batch, len(suppressed), dtype=torch.bool, device=device)
        unfinished = torch.ones(batch, dtype=torch.bool, device=device)
        hidden = self._prompt(inputs_embeds, attention_mask, min(prompt + max_new_tokens, prompt + BLOCK))
        mask = _additive(attention_mask, hidden.dtype)
        positions = attention_mask.sum(dim=1, keepdim=True)
        states: list[tuple[tuple[torch.Tensor], torch.Tensor | None]] = [((hidden,), None)]
        tokens: list[torch.Tensor] = []
        while True:
            drawn = choose(self.talker.codec_head(hidden[:, -1]), len(tokens), seen)
            drawn = torch.where(unfinished, drawn, pad)
            seen.scatter_(1, drawn[:, None], True)
            unfinished &= drawn != eos_token_id
            tokens.append(drawn)
            if len(tokens) == max_new_tokens or not bool(unfinished.any()):
                break
            number = len(tokens) - 1
            if number == 0:
                draw_frame = self._framing(hidden, drawn, choose_code)
            codes, frame = draw_frame(hidden, drawn)
            text = trailing_text_hidden[:, number : number + 1]
            x = frame + (text if text.shape[1] else tts_pad_embed)
            at = prompt + number
            if at % BLOCK == 0 or at == prompt:
                room = min(prompt + max_new_tokens, (at // BLOCK + 1) * BLOCK)
                self.stack.reserve(batch, room)
                if mask is not None:
                    mask = F.pad(mask[..., :at], (0, room - at))
            visible = None if mask is None else mask[..., : at + 1]
            hidden = self.stack.step(x, at, self.stack.rotation(positions + number), visible)
            states.append(((hidden,), codes))
        return SimpleNamespace(sequences=torch.stack(tokens, dim=1), hidden_states=tuple(states))

    def _prompt(self, inputs: torch.Tensor, attention_mask: torch.Tensor, room: int) -> torch.Tensor:
        """Process the prompts with the stock forward pass; returns the state (B, 1, D) after their last position."""
        positions, _ = self.talker.get_rope_index(attention_mask)
        read = self.talker.model(
            inputs_embeds=inputs,
            attention_mask=attention_mask,
            position_ids=positions,
            use_cache=True,
            output_hidden_states=False,
        )
        self.stack.forget()
        self.stack.reserve(len(inputs), room)
        self.stack.remember(read.past_key_values)
        self.sub_stack.reserve(len(inputs), self.codebooks)
        return read.last_hidden_state[:, -1:]  # type: ignore[no-any-return]

    def _framing(self, hidden: torch.Tensor, first: torch.Tensor, choose: Choice) -> Work:
        """`_frame` with these sampling settings for inputs of these shapes, as a CUDA graph if possible."""

        def frame(hidden: torch.Tensor, first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self._frame(hidden, first, choose)

        if self._unrecordable or not recorded.recordable(hidden):
            return frame
        # Key-value caches, which the graph reads and writes at the addresses they had when it was recorded.
        memory = [tensor for layer in self.sub_stack.layers for tensor in (layer.keys, layer.values)]
        made_for = (choose.do_sample, choose.temperature, choose.top_k, choose.top_p, [id(t) for t in memory])
        if self._recorded is None or self._recorded[0] != made_for:
            self._recorded = None  # its memory can be reused
            try:
                self._recorded = made_for, recorded.Recorded(frame, hidden, first), memory
            except (RuntimeError, AssertionError) as error:  # a torch without CUDA raises the latter
                self._unrecordable = True
                warn("synthesize", f"generating without a CUDA graph, which is slower: {first_line(error)}")
                return frame
        return self._recorded[1]

    def _frame(self, hidden: torch.Tensor, first: torch.Tensor, choose: Choice) -> tuple[torch.Tensor, torch.Tensor]:
        """Generate the other codebooks of a frame.

        Args:
            hidden: (B, 1, D) the talker's state before the frame.
            first: (B,) its code of codebook 0.

        Returns:
            the frame's codes (B, codebooks), and their embeddings' sum (B, 1, D).
        """
        read_hidden = self.predictor.small_to_mtp_projection(hidden)
        x, start, mask = (
            torch.cat([read_hidden, F.embedding(first[:, None], self.read_first)], dim=1),
            0,
            self.first_mask,
        )
        codes = [first]
        for codebook, head in enumerate(self.heads):
            end = start + x.shape[1]
            state = self.sub_stack.step(x, start, self.rotations[codebook], mask)
            codes.append(choose(F.linear(state[:, -1], head)))
            x, start, mask = F.embedding(codes[-1][:, None], self.read[codebook]), end, None
        frame = torch.stack(codes, dim=1)
        others = F.embedding(frame[:, 1:] + self.offsets, self.tables)
        embedded = torch.cat([self.talker.get_input_embeddings()(first[:, None]), others], dim=1)
        return frame, embedded.sum(dim=1, keepdim=True)


@contextmanager
def generating(model: Qwen3TTSModel, fast: Any) -> Iterator[None]:
    """Context manager in which `generate_*` of `model` uses `fast.generate`; the model's own if `fast` is None."""
    talker: Any = model.model.talker  # type: ignore[attr-defined]
    if fast is not None:
        talker.generate = fast.generate
    try:
        yield
    finally:
        talker.__dict__.pop("generate", None)  # the class has its own


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """Additive mask (B, 1, 1, P) of minus infinity and 0 from a mask (B, P) of 0 and 1; None if nothing is masked."""
    if bool(mask.all()):
        return None
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask == 0, -torch.inf)[:, None, None]
