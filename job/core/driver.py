"""Check that the NVIDIA driver and GPU are new enough for the CUDA version that torch was built for.

With a driver that is too old, torch only warns and computes on the CPU, which wastes hours of a rented GPU. With a GPU
that is too old it also only warns, then fails at the first computation.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

from job.core.errors import BadInput

#: The driver's library, found by the dynamic loader; the container runtime mounts the host's own.
LIBRARY = "libcuda.so.1"
#: Where the kernel module reports its version.
MODULE = Path("/proc/driver/nvidia/version")
#: Oldest driver for each major CUDA version (NVIDIA, "CUDA Compatibility", minor version compatibility: it runs every
#: minor version).
OLDEST_DRIVER = {11: "450", 12: "525", 13: "580"}


def check(device: str) -> None:
    """Refuse a GPU whose driver is too old. A machine without a driver, and DEVICE=cpu, pass.

    Args:
        device: DEVICE (`auto`, `cpu`, `cuda`, `cuda:0`, `mps`).

    Raises:
        BadInput: naming both versions and the fix.
    """
    if device != "auto" and not device.startswith("cuda"):
        return
    have = cuda_of_driver()
    if have is None:
        return
    import torch

    line = complaint(have, torch.version.cuda, driver_version())
    if line:
        raise BadInput(line)


def cuda_of_driver(library: str = LIBRARY) -> tuple[int, int] | None:
    """The newest CUDA version (major, minor) that the driver supports; None if there is no usable driver."""
    version = ctypes.c_int(0)
    try:
        failed = ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    if failed or version.value <= 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def driver_version(module: Path = MODULE) -> str | None:
    """The driver's own version, for example 535.104.05; None when the kernel does not report it."""
    try:
        first = module.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return None
    words = (word for word in first.split() if word[:1].isdigit() and "." in word)
    return next(words, None)


def complaint(have: tuple[int, int], built_for: str | None, driver: str | None = None) -> str | None:
    """The error message for a driver that is too old, else None. Only the major CUDA version matters.

    Args:
        have: the newest CUDA version that the driver supports.
        built_for: torch's CUDA version (`torch.version.cuda`); None for a build without CUDA.
        driver: the driver's own version, if known.
    """
    if not built_for:
        return None
    need = int(built_for.split(".")[0])
    if have[0] >= need:
        return None
    name = f"the NVIDIA driver {driver}" if driver else "the NVIDIA driver"
    oldest = f" ({OLDEST_DRIVER[need]} or newer)" if need in OLDEST_DRIVER else ""
    return (
        f"DEVICE: {name} supports CUDA {have[0]}.{have[1]} but torch is built for CUDA {built_for}; use a machine with "
        f"a newer driver{oldest}, or set DEVICE=cpu to try without the GPU"
    )


def complaint_about_gpu(name: str, capability: tuple[int, int], built_for: Sequence[str]) -> str | None:
    """The error message for a GPU that torch has no code for, else None.

    Machine code runs on GPUs with the same major compute capability and an equal or higher minor one (NVIDIA, "CUDA C++
    Programming Guide", binary compatibility), PTX on all later GPUs.

    Args:
        name: the GPU's name.
        capability: the GPU's compute capability.
        built_for: torch's (`torch.cuda.get_arch_list()`), such as sm_90 and compute_120; empty when unknown.
    """
    major, minor = capability
    for arch in built_for:
        kind, _, digits = arch.partition("_")
        number = int("".join(character for character in digits if character.isdigit()) or 0)
        newer = number <= 10 * major + minor
        if newer and (kind == "compute" or number // 10 == major):
            return None
    if not built_for:
        return None
    return (
        f"DEVICE: torch has no code for {name} (compute capability {major}.{minor}, but is built for "
        f"{', '.join(built_for)}); use another GPU, or set DEVICE=cpu to try without one"
    )
