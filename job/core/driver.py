"""The NVIDIA driver and GPU: whether they are new enough for the CUDA that torch is built for.

torch only warns about a driver that is too old and computes on the CPU, which on a rented GPU is hours of nothing. It
warns about a GPU that is too old as well, and fails at the first computation.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

from job.core.errors import BadInput

#: The driver's library, as the loader finds it; the container runtime mounts the machine's own.
LIBRARY = "libcuda.so.1"
#: Where the kernel module says its version.
MODULE = Path("/proc/driver/nvidia/version")
#: Oldest driver of each CUDA generation (NVIDIA, "CUDA Compatibility", minor version compatibility: all of a generation
#: run on it).
OLDEST_DRIVER = {11: "450", 12: "525", 13: "580"}


def check(device: str) -> None:
    """Refuse a GPU whose driver is too old. A machine without a driver, and DEVICE=cpu, pass.

    Args:
        device: of the settings (`auto`, `cpu`, `cuda`, `cuda:0`, `mps`).

    Raises:
        BadInput: naming both versions and what to do.
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
    """The newest CUDA (major, minor) that the driver supports; None without a driver that can be asked."""
    version = ctypes.c_int(0)
    try:
        failed = ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    if failed or version.value <= 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def driver_version(module: Path = MODULE) -> str | None:
    """The driver's own version, for example 535.104.05; None where the kernel does not say."""
    try:
        first = module.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return None
    words = (word for word in first.split() if word[:1].isdigit() and "." in word)
    return next(words, None)


def complaint(have: tuple[int, int], built_for: str | None, driver: str | None = None) -> str | None:
    """What is wrong, in one line; None when nothing is. Any driver of a CUDA generation runs all of that generation.

    Args:
        have: the newest CUDA of the driver.
        built_for: torch's (`torch.version.cuda`); None is a build without CUDA.
        driver: its own version, when it is known.
    """
    if not built_for:
        return None
    need = int(built_for.split(".")[0])
    if have[0] >= need:
        return None
    name = f"the NVIDIA driver {driver}" if driver else "the NVIDIA driver"
    oldest = f" ({OLDEST_DRIVER[need]} or newer)" if need in OLDEST_DRIVER else ""
    return (
        f"DEVICE: {name} is for CUDA {have[0]}.{have[1]} and torch is built for CUDA {built_for}; use a machine with a "
        f"newer driver{oldest}, or set DEVICE=cpu to try without the GPU"
    )


def complaint_about_gpu(name: str, capability: tuple[int, int], built_for: Sequence[str]) -> str | None:
    """What is wrong with a GPU, in one line; None when nothing is.

    Code for a GPU runs on later ones of its generation (NVIDIA, "CUDA C++ Programming Guide", binary compatibility),
    and PTX on all later ones.

    Args:
        name: the GPU's.
        capability: its compute capability.
        built_for: torch's (`torch.cuda.get_arch_list()`), such as sm_90 and compute_120; empty when it is not known.
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
        f"DEVICE: torch has no code for {name} (compute capability {major}.{minor}, and it is built for "
        f"{', '.join(built_for)}); use another GPU, or set DEVICE=cpu to try without one"
    )
