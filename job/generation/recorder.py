"""Record the codes of stock generation, and whether it stopped by itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from qwen_tts import Qwen3TTSModel


@dataclass
class Spoken:
    """The codes generated for one text.

    Attributes:
        codes: int64 on the CPU, shape (frames, codebooks), without the end.
        stopped_by_eos: whether the talker chose its end token; False when MAX_NEW_TOKENS was reached.
    """

    codes: torch.Tensor
    stopped_by_eos: bool


@dataclass
class GenerationRecorder:
    """Context manager in which every `generate_*` call of `model` appends one `Spoken` per text to `spoken`.

    `generate_custom_voice` returns only waveforms. The codes are read from the model's own `generate`, and the end from
    the token sequences of the talker's `generate`: comparing lengths with MAX_NEW_TOKENS would not do, because a text
    that is cut off has one frame less than that (the last token is drawn but never turned into a frame), and one that
    stops there has just as many.

    Example:
        >>> with GenerationRecorder(model) as recorder:
        ...     wavs, rate = model.generate_custom_voice(["Hello."], speaker="my_voice")
        >>> recorder.spoken[0].codes.shape
    """

    model: Qwen3TTSModel
    spoken: list[Spoken] = field(default_factory=list)

    def __enter__(self) -> GenerationRecorder:
        """Wrap the two `generate` methods."""
        core: Any = self.model.model
        talker = core.talker
        stock_generate, stock_talk = core.generate, talker.generate
        eos = core.config.talker_config.codec_eos_token_id
        ended: list[bool] = []

        def talk(*args: Any, **kwargs: Any) -> Any:
            result = stock_talk(*args, **kwargs)
            ended[:] = (result.sequences == eos).any(dim=1).tolist()
            return result

        def generate(*args: Any, **kwargs: Any) -> Any:
            codes, hidden = stock_generate(*args, **kwargs)
            for one, stopped in zip(codes, ended, strict=True):
                self.spoken.append(Spoken(one.detach().cpu().long(), stopped))
            return codes, hidden

        core.generate, talker.generate = generate, talk
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the model's own methods (they are class attributes, so removing ours is enough)."""
        core: Any = self.model.model
        del core.generate, core.talker.generate


@contextmanager
def quiet_generation() -> Iterator[None]:
    """Suppress transformers' warnings, once per call, about arguments that stock `qwen_tts` always passes."""
    from transformers.utils import logging as noise

    before = noise.get_verbosity()
    noise.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        noise.set_verbosity(before)
