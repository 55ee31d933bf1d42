"""Convert a finished checkpoint: into a Base model for cloning, or with its adapter scaled up or down."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.core import files
from job.core.console import say
from job.core.errors import BadInput
from job.modes import mode_of

if TYPE_CHECKING:
    import torch

    from job.config.settings import Settings

#: Directory of the adapter in a checkpoint that also contains merged weights.
ADAPTER_FOLDER = "adapter"
#: File with the base model's speaker encoder, which a CustomVoice model's own weights do not contain.
ENCODER_FILE = "speaker_encoder.safetensors"
#: Top-level files of a model directory that are not copied into one derived from it.
NOT_COPIED = ("README.md", "training_state.json", ADAPTER_FOLDER, ".*", "*.safetensors*", "*.bin", "*.pt", "*.lock")


def refuse_adapter_alone(languages: Iterable[str], known: Container[str], settings: Settings) -> None:
    """Refuse EXPORT=adapter when the adapter would not contain all that is trained.

    Args:
        languages: lower-case names of the data's languages, or `auto`.
        known: the base model's languages.
        settings: TRAIN_MODE and EXPORT are used.

    Raises:
        BadInput: one of the languages is new to the base model.
    """
    new = sorted(name for name in languages if name != "auto" and name not in known)
    if new and not mode_of(settings).merged(settings):
        raise BadInput(
            f"EXPORT=adapter: {new[0]} is a new language, which is trained in the codec embedding, and an adapter does "
            "not contain that; set EXPORT=both or merged"
        )


def cloning_model(checkpoint: Path, target: Path) -> None:
    """Convert a merged checkpoint into a Base model: the talker with a speaker encoder, for `generate_voice_clone`.

    Args:
        checkpoint: a merged checkpoint that this job wrote.
        target: directory to write, replaced as a whole.

    Raises:
        BadInput: the checkpoint lacks merged weights or the speaker encoder.
    """
    if not any(checkpoint.glob("model*.safetensors")):
        raise BadInput(f"{checkpoint} holds an adapter alone; train with EXPORT=merged or both")
    if not (checkpoint / ENCODER_FILE).is_file():
        raise BadInput(f"{checkpoint} has no {ENCODER_FILE}, since its base had none; start from a Base model")

    def fill(directory: Path) -> None:
        copy_model(checkpoint, directory)
        save_weights(load_tensors([*merged_files(checkpoint), checkpoint / ENCODER_FILE]), directory)
        config = files.read_json(directory / "config.json")
        write_json(directory / "config.json", {**config, "tts_model_type": "base"})

    files.replace_directory(target, fill)


def write_cloning_model(settings: Settings, to: Path | None) -> Path:
    """Write `cloning_model` of output/best to a new folder, by default `OUTPUT_DIR/cloning`, and say how to use it.

    Raises:
        BadInput: the checkpoint lacks what is needed, or the folder is there already.
    """
    best, target = settings.paths.best, to.expanduser() if to else settings.paths.output / "cloning"
    if not (best / "training_state.json").is_file():
        raise BadInput(f"{best} is no finished voice; train first, or set OUTPUT_DIR")
    if to and os.path.lexists(target):
        raise BadInput(f"{to} is there already; name a new folder, or none for {settings.paths.output / 'cloning'}")
    cloning_model(best, target)
    say("cloning", f"{target} clones voices: Qwen3TTSModel.from_pretrained(folder).generate_voice_clone(...)")
    return target


def scaled_model(checkpoint: Path, target: Path, scale: float) -> None:
    """Make a checkpoint with its adapter scaled by `scale`: W' = W + (scale - 1) * (alpha / r) * B A.

    Args:
        checkpoint: one with both merged weights W and, in `adapter/`, the adapter that was merged.
        target: directory to write, replaced as a whole.
        scale: 1 gives the checkpoint itself, 0 the base model's layers.

    Raises:
        BadInput: the checkpoint does not contain both.
    """
    adapter = checkpoint / ADAPTER_FOLDER
    if not (adapter / "adapter_config.json").is_file():
        raise BadInput(f"LORA_SCALE={scale:g}: {checkpoint} has no separate adapter; train with EXPORT=both")

    def fill(directory: Path) -> None:
        copy_model(checkpoint, directory)
        save_weights(_scaled_weights(checkpoint, scale), directory)

    files.replace_directory(target, fill)


def scale_in_place(checkpoint: Path, scale: float, changed: Mapping[str, Any]) -> None:
    """Scale a checkpoint's adapter by `scale` for good: its merged weights, and `lora_alpha` of the adapter.

    Args:
        checkpoint: as for `scaled_model`; replaced as a whole.
        scale: 1 changes no weight.
        changed: further JSON files of the checkpoint, by name, that change with it.
    """

    def fill(directory: Path) -> None:
        shutil.copytree(checkpoint, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model*.safetensors*"))
        save_weights(_scaled_weights(checkpoint, scale), directory)
        described = directory / ADAPTER_FOLDER / "adapter_config.json"
        config = files.read_json(described)
        write_json(described, {**config, "lora_alpha": config["lora_alpha"] * scale})
        for name, content in changed.items():
            write_json(directory / name, content)

    files.replace_directory(checkpoint, fill)


def has_adapter(checkpoint: Path) -> bool:
    """Whether the checkpoint contains, beside its merged weights, the adapter that was merged into them."""
    return (checkpoint / ADAPTER_FOLDER / "adapter_config.json").is_file() and bool(merged_files(checkpoint))


def _scaled_weights(checkpoint: Path, scale: float) -> dict[str, torch.Tensor]:
    """The merged weights of a checkpoint as if its adapter had been merged at `scale`."""
    adapter = checkpoint / ADAPTER_FOLDER
    weights = load_tensors(merged_files(checkpoint))
    config = files.read_json(adapter / "adapter_config.json")
    factor = (scale - 1.0) * config["lora_alpha"] / config["r"]
    tensors = load_tensors([adapter / "adapter_model.safetensors"])
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            stem = name.removesuffix(".lora_A.weight")
            layer = f"{stem.removeprefix('base_model.model.')}.weight"
            delta = tensors[f"{stem}.lora_B.weight"].float() @ a.float()
            weights[layer] = (weights[layer].float() + factor * delta).to(weights[layer].dtype)
    return weights


def merged_files(directory: Path) -> list[Path]:
    """The files of a model's own weights."""
    return sorted(directory.glob("model*.safetensors"))


def copy_model(source: Path, target: Path, leave_out: tuple[str, ...] = NOT_COPIED) -> None:
    """Copy a model directory's tokenizer, configuration and speech tokenizer, but not its own weights."""
    here, below = shutil.ignore_patterns(*leave_out), shutil.ignore_patterns(".*", "*.lock")

    def ignore(directory: str, names: list[str]) -> set[str]:
        return (here if Path(directory) == source else below)(directory, names)

    shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignore)


def load_tensors(paths: list[Path]) -> dict[str, torch.Tensor]:
    """All tensors of some safetensors files."""
    from safetensors.torch import load_file

    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def save_weights(weights: dict[str, torch.Tensor], directory: Path) -> None:
    """Write a model's weights as `from_pretrained` reads them, in several files when they are large."""
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(weights, directory, max_shard_size="5GB", metadata={"format": "pt"})
    make_readable(directory)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write one safetensors file."""
    from safetensors.torch import save_file

    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, str(path), metadata={"format": "pt"})
    make_readable(path.parent)


def make_readable(directory: Path) -> None:
    """Make a file readable by others: safetensors makes its files private, but work directories are shared."""
    for path in directory.glob("*.safetensors"):
        path.chmod(0o644)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file into a temporary directory (elsewhere, use the atomic `files.write_json`)."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
