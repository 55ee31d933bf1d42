"""The default tiny base model, built once and kept in the user's cache directory."""

from __future__ import annotations

import tempfile
from pathlib import Path

from job.core import files
from job.core.errors import BadInput
from job.demo.base import FILES, build

#: Part of the cache directory's name: raise it whenever the built bytes change.
VERSION = "1"


def cached_base() -> Path:
    """The default tiny base; built on first use.

    It is `<cache>/qwen3-tts-job/demo-<version>`, where <cache> is XDG_CACHE_HOME or `~/.cache`, or the system's
    temporary directory when that cannot be written. It is built under a temporary name and renamed, one process at a
    time; others wait and take what it built. An incomplete one is built again.

    Raises:
        BadInput: none of the two places can be written.
    """
    import platformdirs
    from filelock import FileLock

    name = f"demo-{VERSION}"
    caches = (
        platformdirs.user_cache_path("qwen3-tts-job", appauthor=False),
        Path(tempfile.gettempdir()) / "qwen3-tts-job",
    )
    for cache in caches:
        if is_complete(cache / name):
            return cache / name
    reasons: list[str] = []
    for cache in caches:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f".{name}.lock"):
                if not is_complete(cache / name):
                    files.replace_directory(cache / name, build)
                return cache / name
        except OSError as error:
            reasons.append(f"{cache} ({error.strerror or error})")
    raise BadInput(f"INIT_MODEL_PATH=demo: cannot be built in {' or '.join(reasons)}; free some space or name a model")


def is_complete(directory: Path) -> bool:
    """True if every file of a base is there and non-empty."""
    return all((directory / name).is_file() and (directory / name).stat().st_size > 0 for name in FILES)
