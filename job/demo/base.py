"""Build a tiny base model of the real architecture in seconds, with all files of a released base model.

`Qwen3TTSModel.from_pretrained` loads it; it clones, encodes, trains, speaks and decodes on a CPU. Its weights are
random but seeded: the same arguments give the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.core import files
from job.demo import weights
from job.demo.text import write_tokenizer
from job.demo.tiny_codec import write_codec

if TYPE_CHECKING:
    import torch

#: Special rows of the codec embedding after those of the codes, as in the released models.
CODEC_IDS = {
    "codec_pad_id": 2148,
    "codec_bos_id": 2149,
    "codec_eos_token_id": 2150,
    "codec_think_id": 2154,
    "codec_nothink_id": 2155,
    "codec_think_bos_id": 2156,
    "codec_think_eos_id": 2157,
}

LANGUAGES = {
    "chinese": 2055,
    "english": 2050,
    "german": 2053,
    "italian": 2070,
    "portuguese": 2071,
    "spanish": 2054,
    "japanese": 2058,
    "korean": 2064,
    "french": 2061,
    "russian": 2069,
}

GENERATION = {
    "do_sample": True,
    "repetition_penalty": 1.05,
    "temperature": 0.9,
    "top_p": 1.0,
    "top_k": 50,
    "subtalker_dosample": True,
    "subtalker_temperature": 0.9,
    "subtalker_top_p": 1.0,
    "subtalker_top_k": 50,
    "max_new_tokens": 8192,
}

FILES = (
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.json",
    "speech_tokenizer/config.json",
    "speech_tokenizer/model.safetensors",
    "speech_tokenizer/preprocessor_config.json",
)

#: The codec embedding's standard deviation; the text channel and x-vectors are brought to the same scale.
EMBEDDING_SCALE = 0.05


def build(
    directory: Path,
    *,
    seed: int = 0,
    hidden_size: int = 64,
    text_hidden_size: int = 96,
    layers: int = 2,
    heads: int = 4,
    key_value_heads: int = 2,
    head_dim: int = 16,
    sub_talker_hidden_size: int | None = None,
    sub_talker_layers: int = 2,
    codebooks: int = 16,
    codebook_size: int = 2048,
    codec_ids: dict[str, int] | None = None,
    languages: dict[str, int] | None = None,
    reserved_text_tokens: int = 0,
    size: str = "demo",
    dtype: str = "bfloat16",
) -> Path:
    """Write a base model into `directory`, which is created if missing; existing files are replaced.

    Args:
        directory: where to.
        seed: of every weight.
        hidden_size: width of the talker, and of the x-vector.
        text_hidden_size: width of the text embedding. Different from `hidden_size` by default, as in the 0.6B model.
        layers: of the talker.
        heads: attention heads, of talker and sub-talker.
        key_value_heads: key and value heads (grouped-query attention).
        head_dim: width of a head; even, at least 6.
        sub_talker_hidden_size: width of the code predictor. None means `hidden_size`; any other width makes
            `small_to_mtp_projection` a linear layer, as in the 1.7B model.
        sub_talker_layers: of the code predictor.
        codebooks: codebooks per frame, at least 2.
        codebook_size: codes per codebook, a power of two; the codec vocabulary has 1024 more rows.
        codec_ids: replaces entries of `CODEC_IDS` (rows from `codebook_size` up).
        languages: replaces `LANGUAGES`; entries with "dialect" in their name are not offered as languages.
        reserved_text_tokens: unused special tokens ahead of the others, which shifts the others' ids.
        size: `tts_model_size`; stock code drops `instruct` when it is a substring of "0b6".
        dtype: dtype of the weights in model.safetensors; bfloat16 as in the released models. The codec is fp32.

    Returns:
        `directory`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    text_ids = write_tokenizer(directory, reserved_text_tokens)
    vocabulary = codebook_size + 1024
    if codebook_size != 2048 and codec_ids is None:
        codec_ids = {name: index - 2048 + codebook_size for name, index in CODEC_IDS.items()}
    if codebook_size != 2048 and languages is None:
        languages = {name: index - 2048 + codebook_size for name, index in LANGUAGES.items()}
    common = {
        "attention_bias": False,
        "attention_dropout": 0,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 32768,
        "num_attention_heads": heads,
        "num_code_groups": codebooks,
        "num_key_value_heads": key_value_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000,
        "sliding_window": None,
        "use_cache": True,
        "use_sliding_window": False,
    }
    sub_talker = hidden_size if sub_talker_hidden_size is None else sub_talker_hidden_size
    talker_config = {
        **common,
        **CODEC_IDS,
        **(codec_ids or {}),
        "code_predictor_config": {
            **common,
            "hidden_size": sub_talker,
            "intermediate_size": 3 * sub_talker,
            "layer_types": ["full_attention"] * sub_talker_layers,
            "max_position_embeddings": 65536,
            "model_type": "qwen3_tts_talker_code_predictor",
            "num_hidden_layers": sub_talker_layers,
            "rope_scaling": None,
            "tie_word_embeddings": False,
            "vocab_size": codebook_size,
        },
        "codec_language_id": LANGUAGES if languages is None else languages,
        "hidden_size": hidden_size,
        "intermediate_size": 3 * hidden_size,
        "model_type": "qwen3_tts_talker",
        "num_hidden_layers": layers,
        "position_id_per_seconds": 13,
        "rope_scaling": {
            "interleaved": True,
            "mrope_section": mrope_section(head_dim),
            "rope_type": "default",
            "type": "default",
        },
        "spk_id": {},
        "spk_is_dialect": {},
        "text_hidden_size": text_hidden_size,
        "text_vocab_size": text_ids.pop("text_vocab_size"),
        "vocab_size": vocabulary,
    }
    config = {
        "architectures": ["Qwen3TTSForConditionalGeneration"],
        **text_ids,
        "dtype": dtype,
        "model_type": "qwen3_tts",
        # Only the encoder's own keys: its configuration class takes no others.
        "speaker_encoder_config": {
            "enc_attention_channels": 16,
            "enc_channels": [32, 32, 32, 32, 96],
            "enc_dilations": [1, 2, 3, 4, 1],
            "enc_dim": hidden_size,
            "enc_kernel_sizes": [5, 3, 3, 3, 1],
            "enc_res2net_scale": 8,
            "enc_se_channels": 16,
            "mel_dim": 128,
            "sample_rate": weights.SAMPLE_RATE,
        },
        "talker_config": talker_config,
        "tokenizer_type": "qwen3_tts_tokenizer_12hz",
        "transformers_version": "4.57.3",
        "tts_model_size": size,
        "tts_model_type": "base",
    }
    files.write_json(directory / "config.json", config)
    files.write_json(directory / "generation_config.json", GENERATION)
    with weights.one_thread():
        _write_weights(directory / "model.safetensors", config, seed, dtype)
        write_codec(directory / "speech_tokenizer", seed=seed, codebooks=codebooks, codebook_size=codebook_size)
    return directory


def mrope_section(head_dim: int) -> list[int]:
    """Rotary pairs for the three position channels, in the released proportion (24, 20, 20 of 64)."""
    pairs = head_dim // 2
    side = pairs * 20 // 64
    return [pairs - 2 * side, side, side]


def _write_weights(path: Path, config: dict[str, Any], seed: int, dtype: str) -> None:
    import torch
    from qwen_tts.core.models import Qwen3TTSConfig, Qwen3TTSForConditionalGeneration
    from safetensors.torch import save_file

    model = Qwen3TTSForConditionalGeneration(Qwen3TTSConfig(**config)).eval()
    weights.fill(
        model.talker,
        seed,
        "talker.",
        gains={
            # SiLU of unit-variance input has a root mean square of about 0.6.
            "text_projection.linear_fc2": EMBEDDING_SCALE / 0.6,
            "o_proj": 0.5,
            "down_proj": 0.5,
            "codec_head": 0.5,
            "lm_head": 0.5,
        },
        deviations={"codec_embedding": EMBEDDING_SCALE, "text_embedding": 1.0},
    )
    weights.fill(model.speaker_encoder, seed, "speaker_encoder.", gains={"conv": 1.4}, deviations={"bias": 0.1})
    _calibrate_speakers(model, seed)
    state = {name: tensor.to(getattr(torch, dtype)).contiguous() for name, tensor in model.state_dict().items()}
    files.write_with(path, lambda temporary: save_file(state, temporary, metadata={"format": "pt"}))
    path.chmod(0o644)  # safetensors makes its files for this user only; a cache is read by others as well


def _calibrate_speakers(model: Any, seed: int) -> None:
    """Centre the speaker embeddings and scale them like the codec embedding's rows.

    The untrained encoder gives nearly the same embedding for every voice: a large common vector and small differences.
    The last layer is set so that every pooled statistic is weighted by how much it varies between voices.
    """
    import torch

    last = model.speaker_encoder.fc
    pooled: list[torch.Tensor] = []
    hook = model.speaker_encoder.asp.register_forward_hook(
        lambda _module, _inputs, output: pooled.append(output[0, :, 0])
    )
    for index in range(16):
        model.extract_speaker_embedding(weights.voiced(seed, f"voice {index}", 3.0), weights.SAMPLE_RATE)
    hook.remove()
    with torch.no_grad():
        statistics = torch.stack(pooled)  # (voices, 2 * channels)
        spread = statistics.std(0)
        # The mean in the divisor keeps statistics that never moved here from counting for anything.
        last.weight.div_((spread + spread.mean())[None, :, None])
        vectors = statistics @ last.weight[..., 0].T
        gain = EMBEDDING_SCALE / vectors.std(0).square().mean().sqrt()
        last.weight.mul_(gain)
        last.bias.copy_(-gain * vectors.mean(0))
