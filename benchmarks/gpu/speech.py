"""Speech: the codes of our loop over frames against stock `generate`'s, and how fast it speaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import common
import synthesis
import torch

from gpu.case import Case, Context, Finding, rounded
from gpu.losses import base_of, built_in
from job.generation import recorded
from job.generation.recorder import quiet_generation
from job.generation.talker import FastTalker, generating
from job.model.loading import load_model

BATCHES = (8, 1)
#: The released codec's decoder, where its config.json differs from the classes' defaults.
DECODER = {"codebook_dim": 512, "hidden_size": 512, "intermediate_size": 1024, "head_dim": 64}


def same_codes(context: Context) -> Iterator[Finding]:
    """Greedy codes in fp32, and on a GPU drawn ones with and without a CUDA graph."""
    bases = {"built-in": built_in(context)} | ({} if context.small else {"8 layers of 512": base_of(context)})
    for shape, base in bases.items():
        models: list[Any] = [load_model(base, context.device, torch.float32).model for _ in range(2)]
        stock, other = models
        for model in models:
            _never_ends(model)
        fast = FastTalker(other.talker)
        frames = 6 if context.small else 40
        finding = Finding(f"generation, {shape}", {"texts": synthesis.BATCH, "frames": frames})
        theirs, ours = _say(stock, None, frames), _say(other, fast, frames)
        finding.least("codes as stock generate's", _alike(theirs, ours), 1.0)
        if context.on_gpu:
            finding.holds("CUDA graph", fast._recorded is not None, "frames are not recorded as a CUDA graph")
            with_graph = _say(other, fast, frames, drawn=True)
            stands, recorded.recordable = recorded.recordable, lambda tensor: False
            try:
                without = _say(other, FastTalker(other.talker), frames, drawn=True)
            finally:
                recorded.recordable = stands
            finding.least("drawn codes with the graph as without", _alike(without, with_graph), 1.0)
        yield finding


def _alike(theirs: list[torch.Tensor], ours: list[torch.Tensor]) -> float:
    """Share of the codes that are the same; those of frames that only one has are not."""
    same = sum(int((a[: len(b)] == b[: len(a)]).sum()) for a, b in zip(theirs, ours, strict=True))
    return same / sum(max(a.numel(), b.numel()) for a, b in zip(theirs, ours, strict=True))


def _never_ends(model: Any) -> None:
    """All texts are said for as long as they may be."""
    with torch.no_grad():
        model.talker.codec_head.weight[model.config.talker_config.codec_eos_token_id] = 0


def _say(
    model: Any, fast: FastTalker | None, frames: int, batch: int = synthesis.BATCH, drawn: bool = False
) -> list[torch.Tensor]:
    """Codes (frames, codebooks) of each text."""
    torch.manual_seed(0)
    named: Any = SimpleNamespace(model=model)
    with torch.no_grad(), quiet_generation(), generating(named, fast):
        codes, _ = model.generate(
            **synthesis.prompts(model, batch), max_new_tokens=frames + 1, do_sample=drawn, subtalker_dosample=drawn
        )
    return list(codes)


def speed(size: str) -> Callable[[Context], Iterator[Finding]]:
    """A case for a size: codes drawn in bf16 and decoded, by models of random weights."""

    def run(context: Context) -> Iterator[Finding]:
        device, frames = context.device, 4 if context.small else 75
        base = base_of(context)
        if context.small:
            model: Any = load_model(base, device, torch.float32).model
        else:
            model = common.released_model(size, base, device).bfloat16().eval()
        _never_ends(model)
        fast = FastTalker(model.talker)
        decoder = _decoder(context)
        for batch in BATCHES:
            codes = _say(model, fast, frames, batch, drawn=True)
            _decoded(decoder, codes)
            taken = {"drawing": [], "decoding": []}  # type: dict[str, list[float]]
            while len(taken["drawing"]) < 3 and (not taken["drawing"] or time.monotonic() < context.until - 10):
                taken["drawing"].append(
                    common.seconds_in(partial(_say, model, fast, frames, batch, drawn=True), device)
                )
                taken["decoding"].append(common.seconds_in(partial(_decoded, decoder, codes), device))
            drawing, decoding = (sorted(values)[len(values) // 2] for values in taken.values())
            finding = Finding(f"speech, {size}, batch {batch}", {"frames": frames})
            finding.figures["ms a frame"] = rounded(1000 * drawing / frames)
            finding.figures["ms to decode a frame"] = rounded(1000 * decoding / frames)
            # Of each text by itself, as a listener would take it; the job's own figure is of all texts together.
            finding.figures["real-time factor"] = rounded((drawing + decoding) / (frames / common.FRAME_RATE))
            if context.on_gpu:
                finding.holds("CUDA graph", fast._recorded is not None, "frames are not recorded as a CUDA graph")
            finding.holds("all frames said", all(len(one) == frames for one in codes), "texts ended early")
            yield finding

    return run


def _decoder(context: Context) -> Any:
    """A codec of the released shapes with random weights; the built-in one on a CPU."""
    from qwen_tts.core import Qwen3TTSTokenizerV2Config, Qwen3TTSTokenizerV2Model

    if context.small:
        from job.demo.tiny_codec import codec_config

        config = Qwen3TTSTokenizerV2Config(**codec_config(16, 2048, 8, 32))
    else:
        config = Qwen3TTSTokenizerV2Config(decoder_config=DECODER)
    torch.manual_seed(0)
    with torch.device(context.device):
        return Qwen3TTSTokenizerV2Model(config).decoder.eval()


@torch.no_grad()
def _decoded(decoder: Any, codes: list[torch.Tensor]) -> torch.Tensor:
    """(texts, 1, samples)."""
    frames = min(len(one) for one in codes)
    together = torch.stack([one[:frames] for one in codes]).transpose(1, 2)
    found: torch.Tensor = decoder.chunked_decode(together)
    return found


def cases(sizes: tuple[str, ...]) -> list[Case]:
    """One a size."""
    return [Case(f"speech, {size}", speed(size), 90) for size in sizes]
