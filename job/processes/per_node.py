"""How many processes of a run there are on a node: one a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path

from job.config.settings import Settings
from job.core.errors import BadInput


def processes_per_node(settings: Settings) -> int:
    """NUM_GPUS, or as many GPUs as are visible; one process where there is none.

    Raises:
        BadInput: there are fewer GPUs than NUM_GPUS, or DEVICE names one.
    """
    on_gpus = settings.device in ("auto", "cuda")
    visible = _visible_gpus() if on_gpus else 0
    if settings.num_gpus == "auto":
        return max(1, visible)
    wanted = max(1, int(settings.num_gpus))
    if wanted > 1 and settings.device.startswith("cuda:"):
        raise BadInput(
            f"NUM_GPUS={wanted}: DEVICE={settings.device} is one GPU; set DEVICE=cuda, and which ones by "
            "CUDA_VISIBLE_DEVICES"
        )
    if on_gpus and wanted > max(1, visible) and (visible or settings.device == "cuda"):
        raise BadInput(f"NUM_GPUS={wanted}: {visible} GPUs are visible; lower it, or see CUDA_VISIBLE_DEVICES")
    return wanted


def _visible_gpus() -> int:
    if not (shutil.which("nvidia-smi") or any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/dxg"))):
        return 0  # and torch, which takes seconds to import, is not asked
    import torch

    return torch.cuda.device_count()
