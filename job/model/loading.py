"""Find and load the base model and its speech tokenizer, and read their configuration.

`base_directory` and `read_config` need no torch; the loaders import it when they are called.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config import names
from job.config.settings import Settings
from job.core import files, storage
from job.core.errors import BadInput, Unreachable, first_line, is_outage, loading_reason

if TYPE_CHECKING:
    import torch
    from qwen_tts import Qwen3TTSModel, Qwen3TTSTokenizer

#: Files besides the weights that stock `Qwen3TTSModel.from_pretrained` needs in a base model's directory.
REQUIRED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "speech_tokenizer/config.json",
    "speech_tokenizer/preprocessor_config.json",
)

#: Why MIXED_PRECISION=fp16 is refused, and what to do.
NO_FP16 = (
    "this model's values exceed the range of fp16, and small gradients of the sub-talker vanish; set "
    "MIXED_PRECISION=auto, which uses bf16 if the GPU supports it, else fp32"
)


@dataclass(frozen=True)
class ModelConfig:
    """The parts of a model's config.json that stages before training need; `raw` is the whole parsed file."""

    raw: dict[str, Any]

    @property
    def talker(self) -> dict[str, Any]:
        """The talker's configuration."""
        return dict(self.raw["talker_config"])

    @property
    def kind(self) -> str:
        """`base`, `custom_voice` or `voice_design`."""
        return str(self.raw.get("tts_model_type"))

    @property
    def languages(self) -> dict[str, int]:
        """Language name (lower case) -> row of the codec embedding."""
        return dict(self.talker.get("codec_language_id") or {})

    @property
    def codebooks(self) -> int:
        """The number of codebooks per frame."""
        return int(self.talker["num_code_groups"])


def by_lookup_key(table: dict[str, Any] | None) -> dict[str, Any]:
    """`spk_id` or `spk_is_dialect` with lower-case names, as `generate` looks them up (some tools keep capitals)."""
    return {names.lookup_key(name): value for name, value in (table or {}).items()}


def base_directory(settings: Settings) -> Path:
    """The directory of INIT_MODEL_PATH; downloaded, or built for `demo`, on first use.

    Raises:
        BadInput: there is no such directory or repo, or it lacks a file that `qwen_tts` needs.
    """
    name = settings.init_model_path
    if name == "demo":
        from job.demo.cached_base import cached_base

        return cached_base()
    directory = Path(name).expanduser()
    if not directory.is_dir():
        if name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise BadInput(f"INIT_MODEL_PATH={name}: no such directory, and not a Hub repo (owner/name)")
        directory = _download(name, settings, "INIT_MODEL_PATH")
    check_base(directory)
    return directory


def known_languages(settings: Settings) -> tuple[str, ...]:
    """The languages of INIT_MODEL_PATH; of a Hub repo only the configuration is downloaded. Empty if that fails."""
    from huggingface_hub import hf_hub_download

    name = settings.init_model_path
    try:
        if name == "demo" or Path(name).expanduser().is_dir():
            return tuple(read_config(base_directory(settings)).languages)
        config = hf_hub_download(name, "config.json", token=settings.token)
        return tuple(ModelConfig(files.read_json(Path(config))).languages)
    except (BadInput, OSError, ValueError, KeyError):  # reported by doctor
        return ()


def speech_tokenizer_directory(settings: Settings) -> Path:
    """The directory of the speech tokenizer: TOKENIZER_PATH, or the base model's own."""
    name = settings.tokenizer_path
    if not name:
        return base_directory(settings) / "speech_tokenizer"
    directory = Path(name).expanduser()
    if not directory.is_dir():
        directory = _download(name, settings, "TOKENIZER_PATH")
    if not (directory / "config.json").is_file():
        raise BadInput(f"TOKENIZER_PATH={name}: no config.json in it")
    return directory


def check_base(directory: Path) -> None:
    """Refuse a base directory that stock `qwen_tts` could not load.

    Raises:
        BadInput: naming the first missing or broken file.
    """
    for name in REQUIRED_FILES:
        if not (directory / name).is_file():
            raise BadInput(f"INIT_MODEL_PATH={directory}: {name} is missing; download the whole model repo")
    for part in (directory, directory / "speech_tokenizer"):
        if not any(part.glob("*.safetensors")):
            raise BadInput(f"INIT_MODEL_PATH={directory}: no *.safetensors in {part.name}/; download the whole repo")
    config = read_config(directory)
    if config.raw.get("model_type") != "qwen3_tts" or "talker_config" not in config.raw:
        raise BadInput(f"INIT_MODEL_PATH={directory}: its config.json does not belong to a Qwen3-TTS model")
    if config.kind not in ("base", "custom_voice"):
        raise BadInput(
            f"INIT_MODEL_PATH={directory}: a {config.kind} model cannot be fine-tuned with this job; use a Base model"
        )


def read_config(directory: Path) -> ModelConfig:
    """Parse a model directory's config.json.

    Raises:
        BadInput: it is missing or not JSON.
    """
    try:
        return ModelConfig(files.read_json(directory / "config.json"))
    except (OSError, ValueError) as error:
        storage.check(error)
        raise BadInput(f"{directory}/config.json cannot be read: {error}") from error


def _download(repo: str, settings: Settings, variable: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, token=settings.token))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        kind = Unreachable if is_outage(error) else BadInput
        reason = first_line(error)
        raise kind(
            f"{variable}={repo}: download failed ({reason}); check the name, HF_TOKEN and the network"
        ) from error


@contextmanager
def explained(named: str, task: str = "", advice: str = "give a model directory or a Hub repo") -> Iterator[None]:
    """Load a model, or its description, in the body of this.

    Args:
        named: the model, and the variable that names it.
        task: what it is loaded for, with ` to` ahead of it.
        advice: what to do about it.

    Raises:
        BadInput: it cannot be loaded.
        Unreachable: since the Hub cannot be reached.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        place = named.partition("=")[2]  # empty where no variable names it
        folder = Path(place).expanduser()  # transformers goes by its name, and does not say which file is missing
        empty = place != "" and folder.is_dir() and not (folder / "config.json").is_file()
        reason = "there is no config.json in it" if empty else loading_reason(error)
        line = f"{named}: cannot be loaded{task} ({reason}); {advice}"
        raise (Unreachable if is_outage(error) else BadInput)(line) from error


def resolve_device(settings: Settings) -> torch.device:
    """The device to run on; a GPU always with its number, which `torch.cuda.set_device` and threads need.

    Every stage that computes calls this first, so it also turns off a torch backend that must not be used on GPUs.

    Raises:
        BadInput: the device of DEVICE does not exist.
    """
    import torch

    # torch prefers cuDNN's attention on newer GPUs, which plans anew for each new length and has produced NaNs.
    torch.backends.cuda.enable_cudnn_sdp(False)
    wanted = settings.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise BadInput(
            f"DEVICE={wanted}: no usable GPU found (no driver, or it is too old); set DEVICE=cpu to use the CPU"
        )
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise BadInput(f"DEVICE={wanted}: not available on this machine; set DEVICE=cpu to use the CPU")
    device = torch.device(wanted)
    if device.type == "cuda" and device.index is None:  # each of several processes has set its own
        return torch.device("cuda", torch.cuda.current_device())
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise BadInput(f"DEVICE={wanted}: {torch.cuda.device_count()} GPUs are visible; check CUDA_VISIBLE_DEVICES")
    return device


def resolve_precision(settings: Settings, device: torch.device) -> str:
    """The precision for accelerate: `bf16` or `no`.

    Raises:
        BadInput: bf16 on a GPU that only emulates it, or fp16: on a CPU accelerate would silently compute in fp32; on a
            GPU the sub-talker's gradients are computed before its loss is scaled, so small ones vanish.
    """
    if settings.mixed_precision == "auto":
        return "bf16" if device.type == "cuda" and has_bf16(device) else "no"
    if settings.mixed_precision == "bf16" and device.type == "cuda" and not has_bf16(device):
        raise BadInput(
            f"MIXED_PRECISION=bf16: {device} does not support bf16 (compute capability below 8.0), and torch would "
            "emulate it slowly; set MIXED_PRECISION=auto, which uses fp32, or use a newer GPU"
        )
    if settings.mixed_precision == "fp16" and device.type == "cpu":
        raise BadInput("MIXED_PRECISION=fp16: not supported on a CPU; set MIXED_PRECISION=bf16 or no")
    if settings.mixed_precision == "fp16":
        raise BadInput(f"MIXED_PRECISION=fp16: {NO_FP16}")
    return settings.mixed_precision


def has_bf16(device: torch.device) -> bool:
    """Whether a GPU supports bf16 natively; `torch.cuda.is_bf16_supported` also counts emulation on older GPUs."""
    import torch

    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def check_attention(settings: Settings, device: torch.device, precision: str) -> None:
    """Refuse an ATTN_IMPLEMENTATION that cannot run on this machine.

    Raises:
        BadInput: flash_attention_2 without its package, off a GPU, or in fp32.
    """
    if settings.attn_implementation != "flash_attention_2":
        return
    if find_spec("flash_attn") is None:
        reason = "the package flash-attn is not installed"
    elif device.type != "cuda" or precision == "no":
        reason = f"it needs a GPU and bf16, but this is {device} with MIXED_PRECISION={precision}"
    else:
        return
    raise BadInput(f"ATTN_IMPLEMENTATION=flash_attention_2: {reason}; use ATTN_IMPLEMENTATION=auto")


def load_speech_tokenizer(directory: Path, device: torch.device) -> Qwen3TTSTokenizer:
    """Load the speech tokenizer (codec) in fp32 on `device`."""
    import torch
    from qwen_tts import Qwen3TTSTokenizer

    tokenizer = Qwen3TTSTokenizer.from_pretrained(str(directory), dtype=torch.float32)
    tokenizer.model.to(device).eval()
    tokenizer.device = device
    return tokenizer


def stored_type(directory: Path) -> torch.dtype:
    """The dtype that loads a model without loss: bf16 if all of it is stored in bf16, else fp32."""
    import torch
    from safetensors import safe_open

    for path in directory.glob("*.safetensors"):
        with safe_open(str(path), framework="numpy") as weights:
            if any(weights.get_slice(name).get_dtype() != "BF16" for name in weights.keys()):  # noqa: SIM118
                return torch.float32
    return torch.bfloat16


def load_model(directory: Path, device: torch.device, dtype: torch.dtype, attention: str = "auto") -> Qwen3TTSModel:
    """Load a model with stock `Qwen3TTSModel.from_pretrained`, in eval mode.

    Tensors go one at a time from the memory-mapped file to `device`, and are converted there.
    """
    from qwen_tts import Qwen3TTSModel

    attention = "sdpa" if attention == "auto" else attention
    # With several processes the CPU device has a number, which transformers would take for a GPU's.
    place = "cpu" if device.type == "cpu" else str(device)
    model = Qwen3TTSModel.from_pretrained(str(directory), dtype=dtype, device_map=place, attn_implementation=attention)
    model.model.eval()
    return model
