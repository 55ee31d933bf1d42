"""Run the stages in order, skipping those already done, and record each one that finishes.

    doctor -> fetch -> prepare -> train -> validate -> push -> synthesize -> report

A stage (`job.stages`) is a function of the settings that returns counts. It talks to the next one only through files.
What `push` has uploaded is finished after the report (`job.publish.release`).
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

from job import environment_check
from job.config.settings import Settings, environment
from job.config.variables import SOURCE_VARIABLES, PublishVariables
from job.core import files, state
from job.core.console import say, warn
from job.core.errors import PublishFailed, SpeechFailed
from job.core.lock import WorkLock
from job.metrics import Metrics
from job.mirror.keeping import Mirror
from job.mirror.step_pushes import StepPushes
from job.processes.ranks import ALONE, Ranks
from job.stages import CHOICE, NAMES, Stage, between, chooses, fingerprint, release, stage, stage_values

#: Stages that take long, and say which variable has them done again.
TELLING = ("fetch", "prepare", "train", "synthesize")
#: Follows prepare with PUSH_DATASET: no stage of its own, but with a state file as they have.
SHARING = Stage(
    "share",
    "job.publish.dataset_push:run",
    (PublishVariables,),
    ("prepare",),
    lambda s: files.identity(s.paths.prepared / "summary.json"),
    lambda p: [],
)


def run(settings: Settings, first: str = NAMES[0], last: str = NAMES[-1], ranks: Ranks = ALONE) -> None:
    """Run the stages from `first` to `last`, skipping those already done.

    Args:
        ranks: the processes that take part; with several, all stages must be distributed ones.

    Raises:
        BadInput: the names are unknown or in the wrong order.
        JobError: whatever a stage refuses with.
    """
    stages = between(settings, first, last)
    if settings.prepare_only:
        say("run", "PREPARE_ONLY: stopping after prepare")
    failed: SpeechFailed | None = None
    unshared: str | None = None
    ranks.first_does(lambda: _check_environment(settings, stages))
    with (
        _locked(settings, ranks),
        Metrics(settings, active=ranks.first) as metrics,
        StepPushes(settings, active=ranks.first) as pushes,
        Mirror(settings, active=ranks.first, own_disks=ranks.own_disks) as mirror,
    ):
        # a kill in the moment in which the best checkpoint is exchanged must not look as if there were none
        ranks.first_does(lambda: files.recover_directory(settings.paths.best))
        did = False
        for one in stages:
            metrics.stage = one.name
            if one.name == "validate" and chooses(settings):
                did |= run_stage(settings, CHOICE)
            for beside in (mirror, pushes):
                ranks.first_does(partial(beside.before, one))
            if one.name == "train" and ranks.own_disks:
                mirror.share(ranks)
            try:
                done = run_stage(settings, one, ranks)
                did |= done
                if done:
                    mirror.after(one)
                    pushes.after(one)
            except SpeechFailed as error:
                failed, did = error, True  # raised after the report, which shows it best
            if one.name == "prepare" and settings.push_dataset:
                unshared = ranks.first_does(partial(_share, settings))
        if stages[-1].name == NAMES[-1]:
            did |= _release(settings, failed)
        if not did and len(stages) > 1:
            say("run", _nothing_new(settings))
    if failed is not None:
        raise failed
    if unshared:
        raise PublishFailed(unshared)


def _nothing_new(settings: Settings) -> str:
    """The last line of a rerun that has nothing to do. Of the demo it says so: each night without its .env ends so."""
    from job import fetch

    last = "data and settings are those of the last run"
    if not fetch.is_named(settings):
        last = f"no variable names data ({', '.join(SOURCE_VARIABLES)}), and the built-in demo was trained before"
    return f"nothing new: {last}, so nothing was trained or uploaded"


def _share(settings: Settings) -> str | None:
    """Publish the prepared dataset (PUSH_DATASET); returns why it could not be, for the end of the run: training needs
    nothing of it."""
    try:
        run_stage(settings, SHARING)
    except PublishFailed as error:
        warn(SHARING.name, f"{error}; going on, and failing at the end")
        return str(error)
    return None


def _release(settings: Settings, failed: SpeechFailed | None) -> bool:
    """Finish publishing what `push` has uploaded for exactly these settings and this checkpoint; else do nothing.

    Returns whether there was anything to do.
    """
    pushed = _current(settings, "push")
    if pushed is None or "skipped" in pushed["counts"]:
        return False
    outcome = "refused" if failed else "unheard" if _current(settings, "synthesize") is None else "passed"
    try:
        return run_stage(settings, release(outcome))
    except PublishFailed as error:
        if failed is None:
            raise
        warn("release", str(error))  # the exit code is that of the speech
        return True


def _current(settings: Settings, name: str) -> dict[str, Any] | None:
    """The state of a stage that is done with the current settings and inputs, else None."""
    one, found = stage(name), state.read(settings.paths.state, name)
    now = fingerprint(settings, one, stage_values(settings, one)) if found and one.left_out(settings) is None else None
    return found if found and found.get("fingerprint") == now else None


def _check_environment(settings: Settings, stages: tuple[Stage, ...]) -> None:
    for line in environment_check.check(environment(), settings, [one.name for one in stages]):
        warn("run", line)


@contextmanager
def _locked(settings: Settings, ranks: Ranks) -> Iterator[None]:
    """Lock each work directory of this run; one process holds the lock for all that work in it."""
    with ExitStack() as held:
        ranks.each_disk(lambda: held.enter_context(WorkLock(settings.paths.state)) and None)
        yield


def run_stage(settings: Settings, stage: Stage, ranks: Ranks = ALONE) -> bool:
    """Run one stage unless it is already done. Returns whether it ran."""
    values = stage_values(settings, stage)
    source = stage.source(settings)
    if stage.name == "train" and not ranks.own_disks:
        ranks.first_does(lambda: _return_finished(settings, stage, values))
    # Taken before the stage reads its inputs: if one changes meanwhile, the next run redoes the stage.
    now = ranks.first_does(lambda: _due(settings, stage, values, source))
    if now is None:
        return False
    say(stage.name, "started")
    started = time.monotonic()
    if ranks.first and stage.name not in ("fetch", "train"):  # which do so once they replace anything
        state.begin(settings.paths.state, stage.name)
    with _page(settings, stage, ranks):
        counts = stage.run(settings, ranks, source)
    _free_memory()
    if ranks.first:
        state.write(
            settings.paths.state,
            stage.name,
            fingerprint=now,
            outputs=stage.outputs(settings.paths),
            counts=counts,
            values=values,
            started=started,
            contents=stage.contents(settings.paths),
            anew=settings.force,
        )
    ranks.wait()
    say(stage.name, f"done in {time.monotonic() - started:.1f} s")
    return True


def is_due(settings: Settings, name: str) -> bool:
    """Whether a stage would run now; says why not."""
    one = stage(name)
    return _due(settings, one, stage_values(settings, one)) is not None


def _page(settings: Settings, stage: Stage, ranks: Ranks) -> AbstractContextManager[None]:
    """What keeps the report page up to date while this process trains."""
    if stage.name != "train" or not ranks.first:
        return nullcontext()
    from job.evaluate import live

    return live.page(settings)


def _free_memory() -> None:
    """Free the memory of the stage's models for the next stage: their modules form reference cycles, and torch does not
    run Python's garbage collector before it reports that GPU memory is exhausted."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.cuda.empty_cache()  # does nothing if no GPU has been used


def _due(settings: Settings, stage: Stage, values: dict[str, Any], source: tuple[Any, ...] = ()) -> str | None:
    """The stage's current fingerprint; None, after logging the reason, when the stage need not run."""
    reason = stage.left_out(settings)
    if reason:
        say(stage.name, f"skipped: {reason}")
        return None
    paths = settings.paths
    previous = state.read(paths.state, stage.name)
    now = fingerprint(settings, stage, values, source)
    if previous and previous.get("fingerprint") == now and not settings.force:
        missing = [path for path in stage.outputs(paths) if not path.exists()]
        arrived = None if missing else stage.arrived(paths)
        if arrived:
            say(stage.name, f"{arrived} has been added or changed since the last run; running this stage again")
        elif not missing:
            when = str(previous.get("finished", ""))[:19]
            say(stage.name, f"nothing to do: done {when} UTC with the same settings and inputs (FORCE=true redoes it)")
            return None
        else:
            say(stage.name, f"{missing[0]} is gone; running this stage again")
    elif previous and not settings.force and stage.name in TELLING and (why := _changed(previous, values)):
        say(stage.name, f"done before, but {why}")
    return now


def _return_finished(settings: Settings, stage: Stage, values: dict[str, Any]) -> None:
    """Bring a training back that had finished with these settings before another one began, so that it is done."""
    paths = settings.paths
    if settings.force or settings.resume == "never" or not (paths.earlier / "train.json").is_file():
        return
    from job.train import earlier_run  # imports torch

    if earlier_run.bring_back(paths, fingerprint=fingerprint(settings, stage, values)):
        say("train", f"back from {paths.earlier}: the training that had finished with these settings")


def _changed(previous: dict[str, Any], values: dict[str, Any]) -> str:
    """Which variables of a stage were others when it was last done; empty where none was."""
    before, now = previous.get("variables"), json.loads(json.dumps(values, default=str))
    if not isinstance(before, dict):
        return ""
    if before.keys() != now.keys():
        return "by a version of this job with other variables"
    return state.some_of(state.differences(before, now), "; ")
