"""Stock `generate`, made to say given codes, with the log-probabilities it would have sampled from.

Nothing of the package is reimplemented: `Qwen3TTSForConditionalGeneration.generate`, the talker's and the code
predictor's own `generate` and `forward` run with their caches. A logits processor, run last, forces every choice, and
`output_logits` hands out the raw logits of every step.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from transformers import LogitsProcessor, LogitsProcessorList


class _Force(LogitsProcessor):
    """Leaves one token at each step."""

    def __init__(self, tokens):
        self.tokens = list(tokens)
        self.step = 0

    def __call__(self, input_ids, scores):
        forced = torch.full_like(scores, float("-inf"))
        forced[:, self.tokens[self.step]] = 0.0
        self.step += 1
        return forced


@contextmanager
def forced(model, frames, talker_logits, sub_talker_logits):
    """While open, `model.generate` says `frames` (T, codebooks) and then stops; logits are appended to the lists."""
    talker, predictor = model.talker, model.talker.code_predictor
    talker_generate, predictor_generate = talker.generate, predictor.generate
    said = {"frames": 0}

    def generate_talker(**kwargs):
        tokens = [*frames[:, 0].tolist(), model.config.talker_config.codec_eos_token_id]
        kwargs["logits_processor"] = LogitsProcessorList([_Force(tokens)])
        result = talker_generate(**kwargs, output_logits=True)
        talker_logits.extend(step[0] for step in result.logits)
        return result

    def generate_predictor(**kwargs):
        frame = frames[said["frames"]]
        said["frames"] += 1
        kwargs["logits_processor"] = LogitsProcessorList([_Force(frame[1:].tolist())])
        result = predictor_generate(**kwargs, output_logits=True)
        sub_talker_logits.append(torch.stack([step[0] for step in result.logits]))
        return result

    talker.generate, predictor.generate = generate_talker, generate_predictor
    try:
        yield
    finally:
        del talker.generate, predictor.generate


def log_probabilities(model, frames, **arguments):
    """Log-probabilities of the forced codes under stock `generate(**arguments)`.

    Returns:
        talker (T + 1,) for the first-codebook codes and the stop, sub-talker (T, codebooks - 1).
    """
    frames = torch.as_tensor(frames, dtype=torch.long)
    talker: list[torch.Tensor] = []
    sub_talker: list[torch.Tensor] = []
    with forced(model, frames, talker, sub_talker):
        (codes,), _ = model.generate(
            do_sample=False, subtalker_dosample=False, max_new_tokens=len(frames) + 8, **arguments
        )
    assert torch.equal(codes, frames), "generate did not say the forced codes"
    targets = torch.cat([frames[:, 0], torch.tensor([model.config.talker_config.codec_eos_token_id])])
    talker_steps = torch.stack(talker).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    sub_steps = torch.stack(sub_talker).log_softmax(-1).gather(2, frames[:, 1:, None])[:, :, 0]
    return talker_steps, sub_steps
