"""Models that training writes every PUSH_STEPS steps to be uploaded beside it: which are due, and the newest only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from job.config.paths import Paths
from job.config.settings import Settings
from job.core import files
from job.core.console import warn
from job.train import earlier_run
from job.train.checkpoint import Exporter
from job.train.writer import BackgroundWriter


class Handover:
    """Writes the model as it is. One due while another is written is taken once no step need wait for it.

    With a sharded model all processes must agree on the step, so there it is taken when it is due.
    """

    def __init__(
        self, settings: Settings, exporter: Exporter, writer: BackgroundWriter, *, first: bool, sharded: bool
    ) -> None:
        """`first`: whether this is the process that writes; `sharded`: whether all others must take part."""
        self._settings, self._exporter, self._writer = settings, exporter, writer
        self._first, self._sharded = first, sharded
        self._every = settings.push_steps if first or sharded else 0
        self.pending = False

    def due(self, step: int) -> bool:
        """Whether to take the model after this step."""
        self.pending = self.pending or (self._every > 0 and step % self._every == 0)
        return self.pending and (self._sharded or self._writer.idle)

    def take(self, step: int, losses: dict[str, float]) -> None:
        """Copy the weights, and write them in the background. `losses`: of this step."""
        self.pending = False
        settings, weights = self._settings, self._exporter.snapshot()
        progress = {"step": step, **losses, "split": "train"}
        progress |= {"train_mode": settings.train_mode, "text_layout": settings.text_layout}
        if self._first:
            fill = partial(self._exporter.write, weights=weights, progress=progress)
            self._writer.submit(lambda: write(settings.paths, step, fill))


def write(paths: Paths, step: int, fill: Callable[[Path], None]) -> None:
    """Let `fill` write the model of this step, then remove those that nobody has begun to upload.

    A full disk loses this model and does not end the run.
    """
    directory = paths.to_push
    try:
        earlier_run.making_room(paths, lambda: fill(directory / f"step-{step}"))
    except Exception as error:
        if not files.is_full(error):
            raise
        warn("train", f"step {step} is not written to be pushed, the disk of OUTPUT_DIR is full; training continues")
        return
    for old in directory.glob("step-*"):
        if int(old.name.removeprefix("step-")) < step:
            files.remove_directory(old)  # all or nothing, so that no half of it is uploaded
