"""Warm start from an adapter trained earlier, by any tool (`RESUME=<directory>`).

It consists of `adapter_model.safetensors`, its `adapter_config.json` and optionally `text_projection.safetensors` or
`.bin`. Tools differ in how they wrap the model, so parameter names are matched by their suffixes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from job.config.settings import Settings
from job.core import files
from job.core.console import say
from job.core.errors import BadInput
from job.modes import mode_of

#: Settings of peft's adapters that change what they compute: another scale, another form, other ranks for some layers.
OTHERWISE = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern")

_WRAPPERS = ("base_model.model.", "base_model.", "model.")


def is_adapter(directory: Path) -> bool:
    """Return whether `directory` contains an adapter."""
    return (directory / "adapter_model.safetensors").is_file() or (directory / "adapter_model.bin").is_file()


def adapter_of(settings: Settings) -> Path | None:
    """Return the adapter that RESUME names, if any.

    Raises:
        BadInput: TRAIN_MODE cannot use it.
    """
    directory = Path(settings.resume).expanduser()
    if settings.resume in ("auto", "never") or not is_adapter(directory):
        return None
    mode_of(settings).check_adapter(settings)
    _check_config(directory, settings)
    return directory


def other_parameters(resume: Path | str) -> str:
    """Why a checkpoint is not resumed from whose weights are not those that the settings train."""
    return (
        f"RESUME={resume}: it holds other parameters than this run trains; set INIT_MODEL_PATH, TRAIN_MODE and its "
        "variables as they were, or RESUME=never"
    )


def past_the_end(resume: Path | str, done: int, steps: int) -> str:
    """Why a checkpoint is not resumed from that has more steps than the run."""
    return f"RESUME={resume}: it is at step {done}, and the run has {steps}; raise MAX_STEPS or NUM_EPOCHS"


def weights_of(directory: Path) -> list[Path]:
    """List the files that contain an adapter's tensors."""
    return [path for stem in ("adapter_model", "text_projection") for path in sorted(directory.glob(f"{stem}.*"))]


def _check_config(directory: Path, settings: Settings) -> None:
    """Refuse an adapter that would mean something else in this job's adapters.

    Raises:
        BadInput: its rank or scale differ from the settings, or it computes otherwise than by B A, scaled alike.
    """
    try:
        config = dict(files.read_json(directory / "adapter_config.json"))
        rank, alpha = config.get("r"), float(config.get("lora_alpha", 0))
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"RESUME={directory}: adapter_config.json beside the adapter is missing or damaged") from error
    if rank != settings.lora_r or alpha != float(settings.lora_alpha):
        raise BadInput(f"RESUME={directory}: the adapter has LORA_R={rank} and LORA_ALPHA={alpha:g}; set these")
    for name in OTHERWISE:
        if config.get(name):
            raise BadInput(
                f"RESUME={directory}: adapter_config.json sets {name}, which this job's adapters do not have; merge it "
                "into its base, and set INIT_MODEL_PATH to the result"
            )


def start_from(model: Any, directory: Path) -> int:
    """Load an adapter's weights into the injected adapters, and its text projection into the model.

    Returns:
        the number of tensors loaded.

    Raises:
        BadInput: none of its tensors fit this model, or one has another shape.
    """
    ours = {
        name.replace(".default.", "."): parameter for name, parameter in model.named_parameters() if ".lora_" in name
    }
    taken, misfits = 0, []
    for name, tensor in _load(directory, "adapter_model").items():
        target = _match(name, ours)
        if target is None:
            misfits.append(name)
            continue
        _copy(ours[target], tensor, f"RESUME={directory}: {name}")
        taken += 1
    if not taken:
        raise BadInput(f"RESUME={directory}: none of its tensors fits this model (first: {misfits[:1]})")
    if misfits:
        say("train", f"{len(misfits)} tensors of the adapter have no place here (LORA_MLP, LORA_SUB_TALKER?)")
    projection = _load(directory, "text_projection")
    for name, parameter in model.talker.text_projection.named_parameters():
        found = next((t for key, t in projection.items() if key.endswith(name)), None)
        if found is not None:
            _copy(parameter, found, f"RESUME={directory}: text_projection {name}")
            taken += 1
    return taken


def _match(name: str, ours: dict[str, Any]) -> str | None:
    """Find our parameter for a foreign name: equal, or matching by suffix once wrapper prefixes are removed."""
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    name = name.replace(".default.", ".")
    if name in ours:
        return name
    ends = [own for own in ours if own.endswith("." + name) and ".code_predictor." not in own.removesuffix(name)]
    return ends[0] if len(ends) == 1 else None


def _copy(parameter: torch.nn.Parameter, tensor: torch.Tensor, what: str) -> None:
    if parameter.shape != tensor.shape:
        raise BadInput(f"{what} has shape {tuple(tensor.shape)} where the model has {tuple(parameter.shape)}")
    with torch.no_grad():
        parameter.copy_(tensor)


def _load(directory: Path, stem: str) -> dict[str, torch.Tensor]:
    """Load the tensors of `<stem>.safetensors` or `<stem>.bin` (without executing any code in it)."""
    from safetensors.torch import load_file

    if (directory / f"{stem}.safetensors").is_file():
        return dict(load_file(directory / f"{stem}.safetensors"))
    if (directory / f"{stem}.bin").is_file():
        return dict(torch.load(directory / f"{stem}.bin", map_location="cpu", weights_only=True))
    return {}
