"""The number of processes per node: one per GPU."""

from __future__ import annotations

import shutil
from pathlib import Path

from job.config.settings import Settings
from job.core.errors import BadInput


def processes_per_node(settings: Settings) -> int:
    """The number of processes on this node: NUM_GPUS or all visible GPUs; 1 without a GPU.

    Raises:
        BadInput: there are fewer GPUs than NUM_GPUS, or DEVICE names a single GPU.
    """
    on_gpus = settings.device in ("auto", "cuda")
    visible = _visible_gpus() if on_gpus else 0
    if settings.num_gpus == "auto":
        return max(1, visible)
    wanted = max(1, int(settings.num_gpus))
    if wanted > 1 and settings.device.startswith("cuda:"):
        raise BadInput(
            f"NUM_GPUS={wanted}: DEVICE={settings.device} is a single GPU; set DEVICE=cuda, and choose the GPUs with "
            "CUDA_VISIBLE_DEVICES"
        )
    if on_gpus and wanted > max(1, visible) and (visible or settings.device == "cuda"):
        raise BadInput(f"NUM_GPUS={wanted}: {visible} GPUs are visible; lower it or check CUDA_VISIBLE_DEVICES")
    return wanted


def _visible_gpus() -> int:
    if not (shutil.which("nvidia-smi") or any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/dxg"))):
        return 0  # without importing torch, which takes seconds
    import torch

    return torch.cuda.device_count()


def on_own_disk(settings: Settings) -> Settings:
    """The settings of a node that has a WORK_DIR of its own: what is not node 0's keeps apart from a run of node 0.

    A machine may be another node when it is started again, and must not take what it has trained from for what it has
    prepared itself.
    """
    if settings.node_rank == 0:
        return settings
    work = settings.paths.work / f"node-{settings.node_rank}"
    changed = settings.model_copy(update={"work_dir": work, "output_dir": None})
    changed.__dict__.pop("paths", None)  # cached
    return changed
