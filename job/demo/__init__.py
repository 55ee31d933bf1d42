"""The built-in demo: a tiny base model of the real architecture, a dozen short clips, and a speech recogniser for them.

This module needs nothing but the standard library; `job.demo.base` builds the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from job.core import files


def clips_directory() -> Path:
    """The directory of the built-in clips: FLAC, 24 kHz, mono, 16 bit, with `metadata.jsonl`."""
    return Path(__file__).parent / "clips"


def recogniser_directory() -> Path:
    """The directory of the built-in speech recogniser, which knows the clips' voices and words and no others."""
    return Path(__file__).parent / "recogniser"


def manifest() -> list[dict[str, Any]]:
    """The rows of the built-in clips: `audio` (absolute path), `text`, `speaker` and `language`, in file order."""
    directory = clips_directory()
    rows = list(files.read_jsonl(directory / "metadata.jsonl"))
    return [{**row, "audio": str(directory / row["audio"])} for row in rows]
