"""Wrap the speech tokenizer for prepare: whole frames in, int16 codes of the base model's codebooks out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from job.audio.clip import Samples, pad_to_frames, resample
from job.config.settings import Settings
from job.core import files
from job.core.errors import BadInput, first_line
from job.core.out_of_memory import is_out_of_memory
from job.core.threads import one_torch_thread, reproducible
from job.model import loading

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from qwen_tts import Qwen3TTSTokenizer

#: Codes (frames, codebooks).
Codes = NDArray[np.int16]

#: Length of the warm-up sound, in frames.
WARM_UP_FRAMES = 6


@dataclass(frozen=True)
class Sizes:
    """What reading a recording needs to know of the codec, for a process that does not load it."""

    codebooks: int
    codebook_size: int
    sample_rate: int
    samples_per_frame: int
    device: torch.device

    @property
    def frame_rate(self) -> float:
        """Codec frames per second."""
        return self.sample_rate / self.samples_per_frame


class Codec:
    """A wrapped `Qwen3TTSTokenizer` with its sizes, and encoding whose results do not depend on the batch."""

    def __init__(self, tokenizer: Qwen3TTSTokenizer, codebooks: int) -> None:
        """Wrap a loaded tokenizer, made safe for several threads; `codebooks` is the base model's number of codebooks.

        Raises:
            BadInput: the tokenizer is of another kind or has too few codebooks.
        """
        kind = tokenizer.get_model_type()
        if kind != "qwen3_tts_tokenizer_12hz":
            raise BadInput(f"TOKENIZER_PATH: a {kind} tokenizer; this model needs qwen3_tts_tokenizer_12hz")
        config = tokenizer.config
        available = int(config.encoder_valid_num_quantizers)
        if available < codebooks:
            raise BadInput(f"TOKENIZER_PATH: the tokenizer has {available} codebooks, the base model needs {codebooks}")
        self.tokenizer = tokenizer
        self.codebooks = codebooks
        self.codebook_size = int(config.encoder_config.codebook_size)
        self.sample_rate = int(tokenizer.get_input_sample_rate())
        self.samples_per_frame = int(tokenizer.get_encode_downsample_rate())
        if self.codebook_size > np.iinfo(np.int16).max + 1:
            raise BadInput(f"TOKENIZER_PATH: codebooks of {self.codebook_size} entries do not fit the int16 columns")
        _use_plain_masks(tokenizer.model.encoder.config)
        make_tables(tokenizer)
        self.warm_up()

    @property
    def device(self) -> torch.device:
        """The device that the tokenizer runs on."""
        device: torch.device = self.tokenizer.device
        return device

    @property
    def frame_rate(self) -> float:
        """Codec frames per second."""
        return self.sample_rate / self.samples_per_frame

    def warm_up(self) -> None:
        """Encode a short sound and discard the codes, so that no clip is encoded by the first call.

        The underlying libraries initialize themselves on the first call of the process, and partly of each thread.
        """
        time = np.arange(WARM_UP_FRAMES * self.samples_per_frame, dtype=np.float32) / self.sample_rate
        Codec._encode(self, [np.asarray(0.3 * np.sin(2 * np.pi * 220.0 * time), dtype=np.float32)])

    def encode(self, clips: Sequence[Samples]) -> list[Codes]:
        """Encode mono clips (samples,) at `sample_rate` to codes (frames, codebooks) each, in the same order.

        A batch that does not fit in GPU memory is halved: the codes do not depend on the batch.
        """
        import torch

        padded = [pad_to_frames(clip, self.samples_per_frame) for clip in clips]
        try:
            return self._encode(padded)
        except RuntimeError as error:
            if len(padded) == 1 or not is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()
        half = len(padded) // 2
        return self.encode(padded[:half]) + self.encode(padded[half:])

    def _encode(self, padded: list[Samples]) -> list[Codes]:
        # `reproducible` sets process-wide flags: useless on a CPU, where several threads encode.
        with reproducible() if self.device.type == "cuda" else one_torch_thread():
            output: Any = self.tokenizer.encode(padded, sr=self.sample_rate)
        return [codes[:, : self.codebooks].to("cpu").numpy().astype(np.int16) for codes in output.audio_codes]

    def decode(self, codes: Codes) -> Samples:
        """Decode codes (frames, codebooks) to mono samples in [-1, 1] at `sample_rate`."""
        with reproducible():
            waves, rate = self.tokenizer.decode({"audio_codes": [codes.astype(np.int64)]})
        samples = np.asarray(waves[0], dtype=np.float32).reshape(-1)
        return resample(np.clip(samples, -1.0, 1.0), int(rate), self.sample_rate)


def load_codec(settings: Settings, codebooks: int, device: torch.device) -> Codec:
    """Load the tokenizer of TOKENIZER_PATH, or the base model's own.

    Raises:
        BadInput: it is missing, cannot be loaded, or does not fit the base model.
    """
    directory = loading.speech_tokenizer_directory(settings)
    try:
        tokenizer = loading.load_speech_tokenizer(directory, device)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = first_line(error)
        raise BadInput(f"speech tokenizer {directory} cannot be loaded ({reason}); download it again") from error
    return Codec(tokenizer, codebooks)


def files_of(directory: Path) -> list[Path]:
    """The files of a codec."""
    return sorted([*directory.glob("*.json"), *directory.glob("*.safetensors")])


def identity_of(directory: Path) -> list[tuple[str, str]]:
    """Names and checksums of a codec's files: the same on all nodes, even if each downloaded its own copy."""
    return [(path.name, files.digest_file(path)) for path in files_of(directory)]


def make_tables(tokenizer: Qwen3TTSTokenizer) -> None:
    """Compute the encoder's codebook embeddings eagerly.

    Transformers computes and caches them when a codebook is first used: a race when several threads encode.
    """
    import torch

    quantizer: Any = tokenizer.model.encoder.quantizer
    with torch.no_grad():
        for part in (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer):
            for layer in part.layers:
                layer.codebook._embed = None  # a cached one may be from other weights or another device
                assert layer.codebook.embed is layer.codebook._embed


#: Name of `_plain_mask` in transformers' registry of masks.
_PLAIN = "plain_causal"


def _use_plain_masks(config: Any) -> None:
    """Make the encoder's transformer build its causal mask in one operation.

    Transformers checks for packed sequences and builds the mask element by element under two levels of vmap: three
    quarters of the encoding time of a short clip on a CPU. Here each row is one sequence, so the mask is the same.
    """
    from transformers import AttentionMaskInterface

    if config._attn_implementation == "sdpa":
        AttentionMaskInterface.register(_PLAIN, _plain_mask)
        config._attn_implementation = {"": _PLAIN}  # attention modules exist already: this selects only the mask


def _plain_mask(
    batch_size: int, cache_position: torch.Tensor, kv_length: int, kv_offset: int = 0, **others: Any
) -> torch.Tensor | None:
    """Replace transformers' `sdpa_mask`: (batch, 1, queries, keys), true where a query attends to a key."""
    import torch
    from transformers.masking_utils import sdpa_mask

    if others.get("attention_mask") is not None or kv_offset or kv_length != len(cache_position):
        given: torch.Tensor | None = sdpa_mask(batch_size, cache_position, kv_length, kv_offset, **others)
        return given
    mask = torch.ones((kv_length, kv_length), dtype=torch.bool, device=cache_position.device).tril()
    return mask.expand(batch_size, 1, kv_length, kv_length)
