"""Estimate the disk space that a run's checkpoints take, without torch."""

from __future__ import annotations

from contextlib import suppress

from job.config import optimizer_choice
from job.config.settings import Settings
from job.core import files
from job.estimate.layer_bytes import Shapes
from job.estimate.parameters import parameter_counts

#: Bytes per parameter of a model in bf16.
MODEL_BYTES = 2
#: Most complete models on disk at any moment: best, last, and one being written; BEST_BY=judges keeps others.
MODELS = 3
#: With PUSH_STEPS, models on disk besides: one that is being uploaded, and one that waits for it.
PUSHED = 2


def models(settings: Settings) -> int:
    """The most models, in the form that is published, that are on disk at the same time."""
    candidates = settings.save_total_limit if settings.best_by == "judges" else 0
    return MODELS + candidates + (PUSHED if settings.push_steps else 0)


def resumable_bytes(settings: Settings, shapes: Shapes | None = None) -> int:
    """Bytes of one checkpoint to resume from: the trained weights and the optimizer's state (`job.train.resume`)."""
    _, trained = parameter_counts(settings, shapes)
    return round(trained * optimizer_choice.saved_bytes(settings))


def taken_bytes(settings: Settings) -> int:
    """Bytes of what an earlier run has left in OUTPUT_DIR, which another run replaces."""
    paths = settings.paths
    left = [paths.best, paths.last, paths.candidates, paths.earlier, *paths.output.glob("checkpoint-*")]
    sizes: dict[tuple[int, int], int] = {}  # files may be links to each other
    for path in (path for directory in left for path in files.tree(directory)):
        with suppress(FileNotFoundError):
            status = path.stat()
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def most_resumable(settings: Settings) -> int:
    """The most checkpoints to resume from that are on disk at the same time: a new one is written before one goes."""
    most = settings.save_total_limit + 1
    if settings.max_steps:
        most = min(most, settings.max_steps // settings.save_steps)
    return max(1, most)  # a signal has one written
