"""The base model's speaker encoder, which computes a speaker embedding (x-vector) from a recording."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from job.audio.clip import Samples, resample
from job.core import files
from job.core.errors import BadInput
from job.core.threads import reproducible
from job.model.voices import ENCODER_FILE

if TYPE_CHECKING:
    import torch

#: Shorter references are repeated up to this length: the encoder's reflection padding needs some frames.
SHORTEST_REFERENCE = 0.5
#: Packages whose versions affect x-vectors.
_LIBRARIES = ("torch", "transformers", "qwen-tts", "soxr")


class SpeakerEncoder:
    """The base model's speaker encoder alone, without the talker, in fp32."""

    def __init__(self, base: Path, device: torch.device) -> None:
        """Load the `speaker_encoder.*` tensors of a base directory.

        Raises:
            BadInput: there are none, or they do not match the configuration.
        """
        import torch
        from qwen_tts.core.models.configuration_qwen3_tts import Qwen3TTSSpeakerEncoderConfig
        from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSSpeakerEncoder

        config = Qwen3TTSSpeakerEncoderConfig(**files.read_json(base / "config.json").get("speaker_encoder_config", {}))
        self.sample_rate = int(config.sample_rate)
        self.device = device
        self.dtype = torch.float32
        module = Qwen3TTSSpeakerEncoder(config).to(torch.float32)
        try:
            module.load_state_dict(_speaker_encoder_tensors(base))
        except (RuntimeError, OSError, ValueError) as error:
            raise BadInput(
                f"INIT_MODEL_PATH={base}: its weights contain no speaker encoder of the configured shape; "
                "use a complete Base model"
            ) from error
        self.speaker_encoder = module.to(device).eval()

    def embed(self, samples: Samples, rate: int) -> torch.Tensor:
        """Mono samples (n,) in [-1, 1] at `rate` Hz -> x-vector (enc_dim,), fp32, on the CPU.

        Runs stock `extract_speaker_embedding` with this object in place of the whole model.
        """
        from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSForConditionalGeneration

        converted = resample(samples, rate, self.sample_rate)
        shortest = int(SHORTEST_REFERENCE * self.sample_rate)
        if len(converted) < shortest:
            converted = np.resize(converted, shortest)
        stock: Any = Qwen3TTSForConditionalGeneration.extract_speaker_embedding
        with reproducible():
            vector: torch.Tensor = stock(self, np.ascontiguousarray(converted, dtype=np.float32), self.sample_rate)
        return vector.to("cpu").clone()

    def identity(self) -> str:
        """Digest of what determines x-vectors besides the recording: weights, device type, library versions."""
        parts = [repr((self.sample_rate, self.device.type, [(name, version(name)) for name in _LIBRARIES])).encode()]
        for name, tensor in sorted(self.speaker_encoder.state_dict().items()):
            parts += [name.encode(), tensor.detach().cpu().contiguous().numpy().tobytes()]
        return files.digest_bytes(b"".join(parts))


def _speaker_encoder_tensors(base: Path) -> dict[str, torch.Tensor]:
    """Read only the tensors under `speaker_encoder.` from the weight files, in fp32, with the prefix removed."""
    import torch
    from safetensors import safe_open

    prefix = "speaker_encoder."
    index = base / "model.safetensors.index.json"
    if (base / ENCODER_FILE).is_file():  # beside a CustomVoice model that this job wrote
        weights = [base / ENCODER_FILE]
    elif index.is_file():
        names = {str(f) for key, f in files.read_json(index)["weight_map"].items() if key.startswith(prefix)}
        weights = sorted(base / name for name in names)
    else:
        weights = sorted(base.glob("*.safetensors"))
    tensors: dict[str, torch.Tensor] = {}
    for path in weights:
        with safe_open(str(path), framework="pt") as handle:
            for key in handle.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                if key.startswith(prefix):
                    tensors[key.removeprefix(prefix)] = handle.get_tensor(key).to(torch.float32)
    return tensors
