"""What a run's checkpoint holds, where a run begins, and how it goes on from there. The files are `resume`'s."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from job.config.settings import Settings
from job.core import files
from job.core.console import say
from job.core.errors import BadInput
from job.train import resume, warm
from job.train.guards import Guards
from job.train.logs import Window
from job.train.schedule import Schedule
from job.train.setup import Training

#: Evaluations without a better one that end a run with held-out rows, unless EARLY_STOPPING_PATIENCE says otherwise.
DEFAULT_PATIENCE = 5


@dataclass(frozen=True)
class Start:
    """Where a run begins: after a checkpoint's step, or from nothing.

    Attributes:
        checkpoint: to go on from; None for a run that begins from nothing.
        state: what its `state.json` says; empty without a checkpoint.
    """

    checkpoint: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)

    def parts(self, accumulated: int, world: int) -> int:
        """Batches that a step takes together over all processes.

        As many as at the run's beginning, whoever goes on with it: a step is the same in fewer or more processes.

        Args:
            accumulated: GRADIENT_ACCUMULATION_STEPS.
            world: processes now.
        """
        parts = int(self.state.get("parts") or accumulated * world)
        before = int(self.state.get("accumulated", accumulated))
        return parts if before == accumulated else parts // before * accumulated  # changed, with RESUME=<path>

    @property
    def pieces(self) -> int:
        """Into how many pieces a part is cut; more than 1 if memory ran out before."""
        return int(self.state.get("pieces") or 1)


def start_of(settings: Settings, key: str) -> Start:
    """What RESUME and OUTPUT_DIR give to go on from.

    Args:
        key: of the run; of checkpoints in OUTPUT_DIR, only those with this key are its own.

    Raises:
        BadInput: RESUME names something that cannot be gone on from.
    """
    named: Path | None = None
    if settings.resume not in ("auto", "never") and warm.adapter_of(settings) is None:
        named = resume.named(settings.resume)
    if not settings.force and settings.resume != "never":
        # What this very run has written since, whatever it began with.
        own = resume.newest(settings.paths.output, key, after=resume.step_of(named) if named else -1)
        if own is not None:
            return Start(own, files.read_json(own / "state.json"))
    if named is None:
        return Start()
    state = files.read_json(named / "state.json")
    if resume.step_of(settings.paths.best, "training_state.json") != state["guards"]["patience"]["best_step"]:
        state["guards"].pop("patience")  # what was best then is not what lies here
    return Start(named, state)


class RunState:
    """All that the next step depends on besides settings and data: a checkpoint holds this, and the random generators.

    Attributes:
        guards: of the whole run.
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

    def snapshot(self, step: int, pieces: int, first: bool) -> resume.Snapshot:
        """A checkpoint in memory. Where the model is cut up, all processes must ask."""
        state = {
            "key": self._training.key,
            "parts": self._schedule.parts,
            "accumulated": self._settings.gradient_accumulation_steps,
            "pieces": pieces,
            "scheduler": self._scheduler.state_dict(),
            "guards": self.guards.state(),
            "window": self.window.steps,
            "measured": self.measured,
        }
        if first:
            state["logs"] = {log.name: log.stat().st_size for log in self._logs}
        return resume.snapshot(step, state, self._training.parameters, self._optimizer)

    def begin(self, start: Start, first: bool) -> int:
        """Go back to where a checkpoint was written, or make room for a run that begins from nothing.

        Returns:
            The steps that are done.

        Raises:
            BadInput: the checkpoint of RESUME=<path> does not fit, or all steps are done in it.
        """
        path, output = start.checkpoint, self._settings.paths.output
        if path is None:
            if first:
                resume.clear(output)
                for log in self._logs:
                    files.write_text(log, "")
            return 0
        resume.restore(path, self._training.parameters, self._optimizer)
        state = start.state
        resume.restore_rates(self._scheduler, state["scheduler"])
        self.guards.load(state["guards"])
        self.window = Window(state["window"])
        self.measured = state["measured"]
        done, steps = int(state["step"]), self._schedule.steps
        if done > steps or (done == steps and not self.measured):
            raise BadInput(
                f"RESUME={path}: it is at step {done}, and the run has {steps}; raise MAX_STEPS or NUM_EPOCHS"
            )
        if first:
            here = path.parent.resolve() == output.resolve()
            for log in self._logs:  # those of another run's checkpoint are where that run is
                resume.truncate_log(log, state["logs"][log.name] if here else 0)
        say("train", f"going on from {path.name}")
        return done

    @property
    def _logs(self) -> tuple[Path, Path]:
        return self._settings.paths.training_log, self._settings.paths.validation_log
