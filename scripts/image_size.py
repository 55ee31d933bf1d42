"""What the image holds, by component: the table of docs/image.md, measured."""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from pathlib import Path

#: torch's own packages: its wheels, the CUDA libraries that they depend on, and the kernels' compiler.
TORCH = re.compile(r"(torch|torchaudio|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)$")
#: Smaller packages are one line together.
LISTED_BYTES = 50 * 10**6


def report(root: Path) -> str:
    """The table, and the one figure that this project answers for: the size over torch's own packages.

    Args:
        root: where the image's file system is mounted.
    """
    packages = by_package(root)
    torch = sum(size for name, size in packages.items() if TORCH.match(name))
    total = size_of(root)
    rows = {"torch, torchaudio, triton and CUDA libraries": torch}
    rest = {name: size for name, size in packages.items() if not TORCH.match(name)}
    rows |= {name: size for name, size in sorted(rest.items(), key=lambda item: -item[1]) if size >= LISTED_BYTES}
    small = [size for size in rest.values() if size < LISTED_BYTES]
    rows[f"{len(small)} smaller packages"] = sum(small)
    rows["this project, with the demo's clips"] = size_of(root / "opt/job")
    rows["weights"] = size_of(root / "opt/weights")
    rows["Debian, Python and tini"] = total - size_of(root / "opt")
    lines = [f"image: {total / 1e9:.2f} GB, {(total - torch) / 1e9:.2f} GB over torch's own packages"]
    lines += [f"  {size / 1e6:8.1f} MB  {name}" for name, size in rows.items()]
    return "\n".join(lines)


def by_package(root: Path) -> dict[str, int]:
    """Installed bytes of each distribution, bytecode included, as its RECORD lists them."""
    sizes: dict[str, int] = defaultdict(int)
    (site,) = (root / "opt/venv/lib").glob("python3*/site-packages")
    for record in site.glob("*.dist-info/RECORD"):
        name = record.parent.name.split("-")[0].replace("_", "-").lower()
        with record.open(newline="") as lines:
            for row in csv.reader(lines):
                path = site / row[0]
                if path.is_file():
                    sizes[name] += path.stat().st_size
    return dict(sizes)


def size_of(directory: Path) -> int:
    """Bytes of all files below, each counted once however many names it has."""
    seen: set[int] = set()
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            status = Path(parent, name).lstat()
            if status.st_ino not in seen or status.st_nlink == 1:
                total += status.st_size
            seen.add(status.st_ino)
    return total
