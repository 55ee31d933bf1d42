"""What is said of a file or folder that the system does not let this process read or write."""

from __future__ import annotations

import os
import re
from glob import has_magic
from pathlib import Path

from job.config.settings import Settings

#: Variables of folders that are written to.
_WRITTEN = ("work_dir", "output_dir")


def told(error: OSError, settings: Settings | None) -> str:
    """One line: which variable leads there, what denies access, and what to do.

    Args:
        error: with the name of the file, as the system gives it.
        settings: None if they could not be read.
    """
    path = Path(os.fsdecode(error.filename)).absolute()
    found = _variable(path, settings) if settings is not None else None
    what = f"{_place(path)}: {error.strerror}"
    may = f"; this job runs as uid {os.getuid()}, which must be able to"
    if found is None and not os.path.lexists(path):  # it would have been made there
        return f"{path}: {error.strerror}{may} write there"
    if found in _WRITTEN:
        return f"{found.upper()}: {what}{may} write there: give it the right to, or set another directory"
    return f"{f'{found.upper()}: ' if found else ''}{what}{may} read it"


def _place(path: Path) -> Path:
    """The first folder on the way to a path that may not be entered; else the path, or the folder that lacks it."""
    closed = next((above for above in reversed(path.parents) if not os.access(above, os.X_OK)), None)
    return closed or (path if os.path.lexists(path) else path.parent)


def _variable(path: Path, settings: Settings) -> str | None:
    """The variable whose value names the path or, most closely, a folder above it; None if none does."""
    found: dict[str, int] = {}
    for name in type(settings).model_fields:
        for place in _places(getattr(settings, name)):
            if path.is_relative_to(place):
                found[name] = max(found.get(name, 0), len(place.parts))
    paths = settings.paths
    for name, place in zip(_WRITTEN, (paths.work, paths.output), strict=True):
        if path.is_relative_to(place):
            found[name] = max(found.get(name, 0), len(place.parts))
    return max(found, key=lambda name: found[name]) if found else None


def _places(value: object) -> list[Path]:
    """The paths that a variable's value names, without patterns and what DATASETS says of each."""
    parts = re.split(r"[|\n]|\s+(?:weight|hours|rows)=", str(value)) if isinstance(value, str | Path) else []
    found = []
    for part in filter(None, map(str.strip, parts)):
        try:
            place = Path(part).expanduser().absolute()
        except RuntimeError:  # the home of an unknown user
            continue
        while has_magic(str(place)) or "{" in place.name:
            place = place.parent
        found += [place] if len(place.parts) > 1 else []
    return found
