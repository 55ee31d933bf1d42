"""A tiny speech tokenizer: a real `Qwen3TTSTokenizerV2Model` (12.5 frames per second, 1920 samples per frame).

Its convolutions are random and its codebooks are fitted to the statistics of their outputs for speech-like sound. This
is enough for the demo: the codes differ where the sound differs, repeat where it repeats, and use every codebook.
Decoding gives noise whose colour depends on the codes, not intelligible words.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.core import files
from job.demo import weights

if TYPE_CHECKING:
    import torch

SAMPLES_PER_FRAME = 1920
CODE_DIMENSION = 16
LOUDNESS = 0.1


def codec_config(codebooks: int, codebook_size: int, filters: int, hidden_size: int) -> dict[str, Any]:
    """config.json of the tokenizer. Strides 8*6*5*4 * 2 on the way in and 8*5*4*3 * 2*2 on the way out make 1920."""
    heads = 4
    encoder = {
        "model_type": "mimi",
        "audio_channels": 1,
        "codebook_dim": CODE_DIMENSION,
        "codebook_size": codebook_size,
        "compress": 2,
        "frame_rate": 12.5,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "layer_scale_initial_scale": 0.1,
        "max_position_embeddings": 8000,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden_size // heads,
        "num_filters": filters,
        "num_hidden_layers": 2,
        "num_quantizers": codebooks,
        "num_semantic_quantizers": 1,
        "sampling_rate": weights.SAMPLE_RATE,
        "sliding_window": 250,
        "upsample_groups": hidden_size,
        "upsampling_ratios": [8, 6, 5, 4],
        "use_causal_conv": True,
        "vector_quantization_hidden_dimension": CODE_DIMENSION,
    }
    decoder = {
        "codebook_dim": 2 * CODE_DIMENSION,
        "codebook_size": codebook_size,
        "decoder_dim": 8 * filters,
        "head_dim": hidden_size // heads,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "latent_dim": hidden_size,
        "layer_scale_initial_scale": 0.1,
        "max_position_embeddings": 8000,
        "num_attention_heads": heads,
        "num_hidden_layers": 2,
        "num_key_value_heads": heads,
        "num_quantizers": codebooks,
        "num_semantic_quantizers": 1,
        "sliding_window": 72,
        "upsample_rates": [8, 5, 4, 3],
        "upsampling_ratios": [2, 2],
    }
    return {
        "architectures": ["Qwen3TTSTokenizerV2Model"],
        "model_type": "qwen3_tts_tokenizer_12hz",
        "decode_upsample_rate": SAMPLES_PER_FRAME,
        "decoder_config": decoder,
        "dtype": "float32",
        "encode_downsample_rate": SAMPLES_PER_FRAME,
        "encoder_config": encoder,
        "encoder_valid_num_quantizers": codebooks,
        "input_sample_rate": weights.SAMPLE_RATE,
        "output_sample_rate": weights.SAMPLE_RATE,
        "transformers_version": "4.57.3",
    }


def write_codec(
    directory: Path,
    *,
    seed: int,
    codebooks: int = 16,
    codebook_size: int = 2048,
    filters: int = 8,
    hidden_size: int = 32,
) -> None:
    """Write the `speech_tokenizer/` directory of a base model into `directory`."""
    from qwen_tts.core import Qwen3TTSTokenizerV2Config, Qwen3TTSTokenizerV2Model
    from safetensors.torch import save_file

    config = codec_config(codebooks, codebook_size, filters, hidden_size)
    files.write_json(directory / "config.json", config)
    files.write_json(
        directory / "preprocessor_config.json",
        {
            "chunk_length_s": None,
            "feature_extractor_type": "EncodecFeatureExtractor",
            "feature_size": 1,
            "overlap": None,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": weights.SAMPLE_RATE,
        },
    )
    model = Qwen3TTSTokenizerV2Model(Qwen3TTSTokenizerV2Config(**config)).eval()
    _fill_encoder(model.encoder, seed)
    _fill_decoder(model.decoder, seed)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    target = directory / "model.safetensors"
    files.write_with(target, lambda path: save_file(state, path, metadata={"format": "pt"}))
    target.chmod(0o644)  # as in `job.demo.base`


def _fill_encoder(encoder: Any, seed: int) -> None:
    """Initialise random convolutions, then fit the codebooks to their outputs for speech-like sound."""
    import torch

    # Gain 5 at the waveform makes quiet and loud differ by more than a factor: ELU bends between -1 and 1.
    weights.fill(
        encoder,
        seed,
        "codec.encoder.",
        gains={"conv": 1.4, "encoder.layers.0.conv": 5.0},
        deviations={"conv.bias": 0.1},
        constants={"layer_scale": 0.1},
    )
    sounds = [weights.voiced(seed, f"sound {index}", 20.0) for index in range(8)]
    with torch.no_grad():
        waves = torch.stack([torch.from_numpy(sound) for sound in sounds])[:, None]
        hidden = encoder.encoder(waves)
        hidden = encoder.encoder_transformer(hidden.transpose(1, 2), return_dict=True)[0].transpose(1, 2)
        hidden = encoder.downsample(hidden)  # (sounds, hidden, frames)
        semantic = encoder.quantizer.semantic_residual_vector_quantizer
        acoustic = encoder.quantizer.acoustic_residual_vector_quantizer
        for name, quantizer in (("semantic", semantic), ("acoustic", acoustic)):
            _whiten(quantizer.input_proj, hidden)
            residual = quantizer.input_proj(hidden).transpose(1, 2).reshape(-1, CODE_DIMENSION)
            for index, layer in enumerate(quantizer.layers):
                residual = _fit_codebook(layer.codebook, residual, seed, f"{name} {index}")


def _whiten(projection: Any, hidden: torch.Tensor) -> None:
    """Set a 1x1 convolution so that its outputs have unit variance and no correlation over `hidden`.

    Random convolutions put nearly all of a sound's energy into a few directions; without this a codebook would use one
    or two dimensions, and nothing would be left for the others. `hidden` is (sounds, hidden, frames).
    """
    import torch

    vectors = hidden.transpose(1, 2).reshape(-1, hidden.shape[1]).double()
    values, directions = torch.linalg.eigh(torch.cov(vectors.T))
    kept = directions[:, -projection.out_channels :] / values[-projection.out_channels :].clamp(min=1e-8).sqrt()
    # An eigenvector's sign is arbitrary: fix it, so that every build agrees.
    kept = kept * torch.where(kept.sum(0) < 0, -1.0, 1.0)
    projection.weight.copy_(kept.T[..., None])


def _fit_codebook(codebook: Any, residual: torch.Tensor, seed: int, name: str) -> torch.Tensor:
    """Draw a codebook with the mean and covariance of `residual` (vectors, dimension); return the new residual.

    `cluster_usage` is drawn too and `embed_sum` is the product, as in a trained codec (the embedding is their ratio).
    """
    import torch

    size, dimension = codebook.embed_sum.shape
    mean = residual.mean(0)
    spread = torch.linalg.cholesky(torch.cov(residual.T) + 1e-9 * torch.eye(dimension))
    entries = mean + weights.normal(seed, f"codebook {name}", (size, dimension)) @ spread.T
    usage = torch.from_numpy(weights.generator(seed, f"usage {name}").uniform(0.5, 50.0, size)).float()
    codebook.initialized.fill_(1.0)
    codebook.cluster_usage.copy_(usage)
    codebook.embed_sum.copy_(entries * usage[:, None])
    codebook._embed = None  # the module caches the ratio
    left: torch.Tensor = residual - codebook.decode(codebook.quantize(residual))
    return left


def _fill_decoder(decoder: Any, seed: int) -> None:
    """Random weights, with the last convolution calibrated to a loudness (rms) of 0.1 and no constant offset."""
    import torch

    weights.fill(
        decoder,
        seed,
        "codec.decoder.",
        gains={"conv2": 0.3},
        deviations={"embedding_sum": 1.0},
        constants={"layer_scale": 0.1, "gamma": 0.1, "cluster_usage": 1.0},
    )
    last = decoder.decoder[-1].conv
    size, codebooks = decoder.config.codebook_size, decoder.config.num_quantizers
    codes = torch.from_numpy(weights.generator(seed, "codes").integers(0, size, (4, codebooks, 60)))
    with torch.no_grad():
        # A kernel that sums to zero passes no constant, and Snake activations are never negative on average.
        last.weight -= last.weight.mean(-1, keepdim=True)
        last.weight *= 1e-3
        last.weight *= LOUDNESS / decoder(codes).square().mean().sqrt()
