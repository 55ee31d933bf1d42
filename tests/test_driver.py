"""A driver too old for the packages is one line at the start, not hours on the CPU.

The driver here is a real shared library with the driver's own function, found and called the way the real one is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from job.core import driver

TOP = Path(__file__).resolve().parents[1]
CHECK = "from job.core import driver, errors\ntry:\n  driver.check('{}')\nexcept errors.BadInput as e: print(e, end='')"


def library(directory: Path, version: int, error: int = 0) -> Path:
    """A libcuda.so.1 that answers with `version`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler")
    source = directory / "driver.c"
    source.write_text(f"int cuDriverGetVersion(int *v) {{ *v = {version}; return {error}; }}\n")
    made = directory / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    return made


def test_the_library_is_asked(tmp_path: Path) -> None:
    assert driver.cuda_of_driver(str(library(tmp_path, 12040))) == (12, 4)


def test_a_driver_that_fails_or_is_missing_is_none(tmp_path: Path) -> None:
    """A machine without a GPU passes: DEVICE=cuda there is refused elsewhere."""
    assert driver.cuda_of_driver(str(tmp_path / "none.so")) is None
    assert driver.cuda_of_driver(str(library(tmp_path, 12040, error=999))) is None


@pytest.mark.parametrize(
    ("have", "built_for", "refused"),
    [
        ((12, 8), "13.0", True),
        ((13, 0), "13.0", False),
        ((13, 0), "13.2", False),  # one generation: minor version compatibility
        ((14, 1), "13.0", False),
        ((11, 8), "12.6", True),
        ((11, 8), None, False),  # a build of torch without CUDA
    ],
)
def test_only_an_older_generation_is_refused(have: tuple[int, int], built_for: str | None, refused: bool) -> None:
    assert (driver.complaint(have, built_for) is not None) == refused


def test_the_line_names_both_versions_and_the_way_out() -> None:
    line = driver.complaint((12, 4), "13.0", "550.54.15")
    assert line and "\n" not in line
    for words in ("550.54.15", "CUDA 12.4", "CUDA 13.0", "580 or newer", "DEVICE=cpu"):
        assert words in line


def test_the_kernels_line_is_read(tmp_path: Path) -> None:
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC\n")
    assert driver.driver_version(file) == "535.104.05"
    file.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n")
    assert driver.driver_version(file) == "580.65.06"
    assert driver.driver_version(tmp_path / "none") is None


@pytest.mark.slow
@pytest.mark.parametrize(("device", "refused"), [("auto", True), ("cpu", False), ("mps", False)])
def test_an_old_driver_is_refused_unless_the_cpu_is_wanted(tmp_path: Path, device: str, refused: bool) -> None:
    """With torch as it is locked, in a process that finds the old library first."""
    import torch

    if not torch.version.cuda:
        pytest.skip("torch without CUDA")
    library(tmp_path, 11040)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    run = [sys.executable, "-c", CHECK.format(device)]
    said = subprocess.run(run, cwd=TOP, env=environment, capture_output=True, text=True, check=True).stdout
    assert ("torch is built for CUDA" in said) == refused


BUILT_FOR = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "built_for", "refused"),
    [
        ((6, 1), BUILT_FOR, True),  # GTX 1080
        ((7, 0), BUILT_FOR, True),  # V100
        ((7, 5), BUILT_FOR, False),  # T4
        ((8, 9), BUILT_FOR, False),  # L4, by the code of 8.6
        ((9, 0), BUILT_FOR, False),  # H100
        ((9, 0), ["sm_80", "sm_90a"], False),
        ((10, 3), BUILT_FOR, False),  # B300, by that of 10.0
        ((12, 1), BUILT_FOR, False),
        ((7, 5), ["sm_80"], True),
        ((12, 0), ["sm_80", "sm_90", "compute_90"], False),  # PTX is compiled on the machine
        ((7, 5), ["sm_90", "compute_90"], True),
        ((7, 0), [], False),
    ],
)
def test_a_gpu_that_torch_has_no_code_for_is_refused(
    capability: tuple[int, int], built_for: list[str], refused: bool
) -> None:
    """In minute one: torch itself fails at the first computation, hours later if the data took as long to fetch."""
    line = driver.complaint_about_gpu("Tesla", capability, built_for)
    assert (line is not None) == refused
    if line:
        assert "Tesla" in line and f"{capability[0]}.{capability[1]}" in line and "DEVICE=cpu" in line
