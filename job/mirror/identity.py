"""What makes two runs the same on different machines: settings and contents, never places or times of day."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from job import fetch
from job.config.settings import Settings
from job.core import files
from job.stages import stage, stage_values

#: Files up to this size are known by their contents, larger ones by their size.
SMALL = 1 << 20
#: Variables that say where something is.
_PLACES = ("WORK_DIR", "OUTPUT_DIR")


def data_folder(settings: Settings) -> str:
    """The folder of the mirror for what these settings make of this source."""
    source = fetch.opened(settings)
    inputs = [
        *(source.files if source else ()),
        settings.ref_audio_path,
        settings.init_model_path,
        settings.tokenizer_path,
    ]
    contents = [_contents(Path(path).expanduser()) for path in inputs if path]
    values = _values(settings, "fetch", "prepare")
    return f"data-{_short([values, contents, fetch.revision(settings, source)])}"


def run_folder(settings: Settings, data: str) -> str:
    """The folder of the mirror for a training with these settings on the data of the folder `data`."""
    values = _values(settings, "train")
    if settings.resume == "never":  # ignoring old checkpoints does not make it a different run
        values["RESUME"] = "auto"
    started_from = None if settings.resume in ("auto", "never") else _contents(Path(settings.resume).expanduser())
    return f"run-{_short([data, values, started_from])}"


def _values(settings: Settings, *names: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        found |= stage_values(settings, stage(name))
    return {name: value for name, value in found.items() if name not in _PLACES}


def _contents(path: Path) -> Any:
    """A value that is the same for a copy of a file or directory on another machine."""
    if path.is_dir():
        found = sorted(one for one in files.tree(path) if one.is_file())
        return [(one.relative_to(path).as_posix(), one.stat().st_size) for one in found]
    if not path.is_file():
        return None
    size = path.stat().st_size
    return files.digest_file(path) if size <= SMALL else size


def _short(values: Any) -> str:
    return files.digest_bytes(json.dumps(values, sort_keys=True, default=str).encode())[:12]
