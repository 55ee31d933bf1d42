"""The default tiny base model, built once and stored in the user's cache directory."""

from __future__ import annotations

import tempfile
from pathlib import Path

from job.core import files
from job.core.errors import BadInput
from job.demo.base import FILES, build

#: Part of the cache directory's name; increase it whenever the built files change.
VERSION = "1"


def cached_base() -> Path:
    """The default tiny base; built on first use.

    It is `<cache>/qwen3-tts-job/demo-<version>`, where <cache> is XDG_CACHE_HOME or `~/.cache`, or the system's
    temporary directory when that is not writable. It is built under a temporary name and renamed, by one process at a
    time; others wait and use the result. An incomplete one is built again.

    Raises:
        BadInput: neither of the two directories is writable.
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
    raise BadInput(
        f"INIT_MODEL_PATH=demo: cannot be built in {' or '.join(reasons)}; free some space or set another model"
    )


def is_complete(directory: Path) -> bool:
    """Whether all files of a base model exist and are not empty."""
    return all((directory / name).is_file() and (directory / name).stat().st_size > 0 for name in FILES)
