"""Convert a finished checkpoint: into a Base model for cloning, or with its adapter scaled up or down."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.core import files, links
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
        BadInput: the checkpoint lacks what is needed, the folder is there already, or it cannot be written there.
    """
    paths = settings.paths
    best, usual = paths.best, paths.output / "cloning"
    try:
        target = (to or usual).expanduser().absolute()
    except RuntimeError as error:  # of ~name
        raise BadInput(f"{to}: there is no such user; name a folder") from error
    if not (best / "training_state.json").is_file():
        raise BadInput(f"there is no voice in {best}; train first, or set OUTPUT_DIR")
    replaced = (best, paths.last, paths.candidates, paths.to_push, paths.earlier)
    if any(target.resolve().is_relative_to(one.resolve()) for one in replaced):
        raise BadInput(f"{target} is inside of what training replaces; name another folder")
    if os.path.lexists(target) and not (target == usual.absolute() and _is_cloning_model(target)):
        raise BadInput(f"{target} is there already and is left as it is; name a new folder")
    try:
        cloning_model(best, target)
    except OSError as error:
        if files.is_full(error) or error.errno is None:
            raise
        raise BadInput(f"{target} cannot be written: {error.strerror}; name another folder") from error
    say("cloning", f"{target} clones voices: Qwen3TTSModel.from_pretrained(folder).generate_voice_clone(...)")
    return target


def _is_cloning_model(directory: Path) -> bool:
    """Whether a folder, and no link to one, holds a Base model, as this command writes it."""
    config = directory / "config.json"
    if directory.is_symlink() or not config.is_file():
        return False
    return bool(files.read_json(config).get("tts_model_type") == "base")


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
        links.copy_tree(checkpoint, directory, ignore=shutil.ignore_patterns("model*.safetensors*"))
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

    links.copy_tree(source, target, ignore=ignore)


def load_tensors(paths: list[Path]) -> dict[str, torch.Tensor]:
    """All tensors of some safetensors files."""
    from safetensors.torch import load_file

    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def save_weights(weights: dict[str, torch.Tensor], directory: Path) -> None:
    """Write a model's weights as `from_pretrained` reads them, in several files when they are large."""
    from huggingface_hub import save_torch_state_dict

    with files.named_errors(directory):
        save_torch_state_dict(weights, directory, max_shard_size="5GB", metadata={"format": "pt"})
    make_readable(directory)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write one safetensors file."""
    from safetensors.torch import save_file

    with files.named_errors(path):
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, str(path), metadata={"format": "pt"})
    make_readable(path.parent)


def make_readable(directory: Path) -> None:
    """Make a file readable by others: safetensors makes its files private, but work directories are shared."""
    for path in directory.glob("*.safetensors"):
        path.chmod(0o644)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file into a temporary directory (elsewhere, use the atomic `files.write_json`)."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
