"""State of a run: where it starts, what its checkpoints contain, and how it resumes. Files are handled by `resume`."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from job.config.optimizer_choice import kind_of
from job.config.settings import Settings
from job.core import files
from job.core import state as stage_state
from job.core.console import say
from job.core.errors import BadInput
from job.train import earlier_run, resume, warm
from job.train.agreement import Basis
from job.train.guards import Guards
from job.train.logs import Window
from job.train.passes import Division
from job.train.schedule import Schedule
from job.train.setup import Training

#: Evaluations without improvement that end a run with held-out rows, unless EARLY_STOPPING_PATIENCE is set.
DEFAULT_PATIENCE = 5


@dataclass(frozen=True)
class Start:
    """Where a run starts: after a checkpoint's step, or from scratch.

    Attributes:
        checkpoint: the checkpoint to resume from; None for a run from scratch.
        state: contents of its `state.json`; empty without a checkpoint.
        own: whether it is one of this run's own, in OUTPUT_DIR.
    """

    checkpoint: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)
    own: bool = False

    def on(self, output: Path) -> Start:
        """The same start for a process whose OUTPUT_DIR may be on another node's disk."""
        return replace(self, checkpoint=output / self.checkpoint.name) if self.own and self.checkpoint else self

    def parts(self, accumulated: int, world: int) -> int:
        """Number of micro-batches (parts) per step, over all processes.

        A resumed run keeps the number it began with, so that a step is the same with fewer or more processes.

        Args:
            accumulated: GRADIENT_ACCUMULATION_STEPS.
            world: current number of processes.
        """
        parts = int(self.state.get("parts") or accumulated * world)
        before = int(self.state.get("accumulated", accumulated))
        return parts if before == accumulated else parts // before * accumulated  # changed, with RESUME=<path>

    def division(self, joined: int) -> Division:
        """How micro-batches are computed: as before the checkpoint, where memory may have run out.

        Args:
            joined: most positions of micro-batches computed together, from scratch.
        """
        pieces = int(self.state.get("pieces") or 1)
        return Division(0 if pieces > 1 else min(joined, int(self.state.get("joined", joined))), pieces)


def start_of(settings: Settings, basis: Basis, *, own_disks: bool = False) -> Start:
    """Find the checkpoint to start from, by RESUME and OUTPUT_DIR.

    Args:
        basis: what the run depends on; only checkpoints in OUTPUT_DIR with its key belong to the run.
        own_disks: whether nodes have disks of their own, which agreed on their checkpoints before.

    Raises:
        BadInput: RESUME names something that cannot be resumed from.
    """
    named: Path | None = None
    if settings.resume not in ("auto", "never") and warm.adapter_of(settings) is None:
        named = resume.named(settings.resume)
    if not settings.force and settings.resume != "never":
        # Checkpoints this very run has written since it started, whatever it started from.
        after = resume.step_of(named) if named else -1
        output, asked = settings.paths.output, named is None and not own_disks
        own = resume.newest(output, basis.key, after, basis.differences)
        for _ in range(2):  # another one may have been on its way back
            if own is None and asked and earlier_run.bring_back(settings.paths, basis.key):
                own = resume.newest(output, basis.key)
        if own is not None:
            return Start(own, _with_its_best(own, settings), own=True)
    if named is None:
        return Start()
    return Start(named, _with_its_best(named, settings))


def _with_its_best(checkpoint: Path, settings: Settings) -> dict[str, Any]:
    """A checkpoint's state; without what it knows of the best model if that is not the one in OUTPUT_DIR."""
    state: dict[str, Any] = files.read_json(checkpoint / "state.json")
    if resume.step_of(settings.paths.best, "training_state.json") != state["guards"]["patience"]["best_step"]:
        state["guards"].pop("patience")
    return state


class RunState:
    """Everything the next step depends on besides settings, data and random generators; saved in checkpoints.

    Attributes:
        guards: the guards of the whole run.
        window: the steps since the last line of the training log.
        measured: the last line of the validation log; empty before the first.
    """

    def __init__(
        self,
        settings: Settings,
        training: Training,
        schedule: Schedule,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
    ) -> None:
        self._settings = settings
        self._training = training
        self._schedule = schedule
        self._optimizer = optimizer
        self._scheduler = scheduler
        patience = settings.early_stopping_patience
        if patience is None and len(training.eval_rows) > 0:
            patience = DEFAULT_PATIENCE
        self.guards = Guards(settings.max_grad_norm, patience or None, settings.target_loss)
        self.window = Window()
        self.measured: dict[str, Any] = {}

    def snapshot(self, step: int, division: Division, first: bool) -> resume.Snapshot:
        """Copy a checkpoint into memory. With a sharded model this is a collective: all processes call it."""
        state = {
            "key": self._training.basis.key,
            "basis": asdict(self._training.basis),
            "parts": self._schedule.parts,
            "accumulated": self._settings.gradient_accumulation_steps,
            "pieces": division.pieces,
            "joined": division.joined,
            "scheduler": self._scheduler.state_dict(),
            "guards": self.guards.state(),
            "window": self.window.steps,
            "measured": self.measured,
        }
        if first:
            state["logs"] = {log.name: log.stat().st_size for log in self._settings.paths.logs}
        return resume.snapshot(step, state, self._training.parameters, self._optimizer, kind_of(self._settings))

    def begin(self, start: Start, first: bool, own_disks: bool = False) -> int:
        """Restore the checkpoint, or clear the output for a run from scratch.

        Returns:
            The number of completed steps.

        Raises:
            BadInput: the checkpoint of RESUME=<path> does not match, or has completed all steps.
        """
        path, output = start.checkpoint, self._settings.paths.output
        if path is None:
            if first:
                self._take_over(None, own_disks)
            return 0
        resume.restore(path, self._training.parameters, self._optimizer, kind_of(self._settings))
        state = start.state
        resume.restore_rates(self._scheduler, state["scheduler"])
        self.guards.load(state["guards"])
        self.window = Window(state["window"])
        self.measured = state["measured"]
        done, steps = int(state["step"]), self._schedule.steps
        if done > steps or (done == steps and not self.measured):
            raise BadInput(warm.past_the_end(path, done, steps))
        if first:
            if start.own:
                stage_state.begin(self._settings.paths.state, "train")
            else:
                self._take_over(path, own_disks)
            here = path.parent.resolve() == output.resolve()
            for log in self._settings.paths.logs:  # another run's logs are in that run's directory
                resume.truncate_log(log, state["logs"][log.name] if here else 0)
        what = "" if start.own else self._training.basis.differences(state)
        say("train", f"resuming from {path.name}" + (f", of a run with other settings or data{what}" if what else ""))
        return done

    def _take_over(self, start: Path | None, own_disks: bool) -> None:
        """Give OUTPUT_DIR to this run, keep the run that is in it, and record that its results are there no longer.

        Args:
            start: the checkpoint of another run that this one goes on from, which may be in OUTPUT_DIR; None for none.
        """
        paths, explicit = self._settings.paths, self._settings.force or self._settings.resume == "never"
        kept = None
        if explicit:
            earlier_run.forget(paths)
        elif not own_disks:  # where nodes bring what they agree on from the mirror
            kept = earlier_run.set_aside(paths, self._training.basis.key)
        stage_state.begin(paths.state, "train")
        cleared = 0
        if start is None or kept:
            cleared = resume.clear(paths.output, but=start)
        if start is None:
            if cleared:
                say("train", f"begins anew; {cleared} checkpoints of an earlier run are removed from {paths.output}")
            shutil.rmtree(paths.candidates, ignore_errors=True)
            for log in self._settings.paths.logs:
                files.write_text(log, "")
        if kept:
            say(
                "train",
                f"{kept} are in {paths.earlier} until this run has finished: with the variables and data of before, "
                "that run is there again",
            )
