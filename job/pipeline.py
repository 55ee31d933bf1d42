"""The stages in order: what each uses, reads and writes, and when it has nothing to do.

    doctor -> fetch -> prepare -> train -> validate -> push -> synthesize -> report

A stage is a function of the settings that returns counts. It talks to the next one only through files.
"""

from __future__ import annotations

import gc
import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings

from job.config import surroundings, variables
from job.config.paths import Paths
from job.config.settings import Settings, environment
from job.core import files, state
from job.core.console import say, warn
from job.core.errors import BadInput, SpeechFailed
from job.core.lock import WorkLock
from job.processes.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: also the command's and the state file's name.
        function: `module:function`, imported when the stage runs.
        uses: groups of variables that its result follows from, and single fields of other groups.
        after: stages whose results it builds on.
        inputs: identities of what it reads from outside the work directory.
        outputs: what must still be there for it to have nothing to do.
        arrived: a file that it could have used, was not there, and is now; None when there is none.
        spread: whether all processes of a run work on it.
    """

    name: str
    function: str
    uses: tuple[type[BaseSettings] | str, ...]
    after: tuple[str, ...]
    inputs: Callable[[Settings], Any]
    outputs: Callable[[Paths], list[Path]]
    arrived: Callable[[Paths], Path | None] = lambda paths: None
    spread: bool = False

    def run(self, settings: Settings, ranks: Ranks = ALONE) -> dict[str, Any]:
        """Import the stage and run it."""
        module, name = self.function.split(":")
        function = getattr(import_module(module), name)
        result: dict[str, Any] = function(settings, ranks) if self.spread else function(settings)
        return result


def _identities(*paths: Path | str | None) -> dict[str, Any]:
    return {str(path): files.identity(Path(path).expanduser()) for path in paths if path}


def _sources(settings: Settings) -> Any:
    from job import fetch

    here = _identities(settings.train_jsonl, settings.validation_jsonl, settings.data_dir)
    before = (state.read(settings.paths.state, "fetch") or {}).get("counts", {}).get("revision")
    # When the Hub is away, a rerun that has all it needs takes its dataset for unchanged.
    return here, fetch.revision(settings) or before


def _arrived(paths: Paths) -> Path | None:
    from job import fetch

    return fetch.arrived(paths)


def _recordings(settings: Settings) -> str:
    """One digest over size and time of every file that the manifests name."""
    digest = hashlib.sha256(repr(_identities(settings.ref_audio_path)).encode())
    for split in ("train", "validation"):
        manifest = settings.paths.manifest(split)
        if manifest.exists():
            for row in files.read_jsonl(manifest):
                stamps = [files.stamp(Path(row[key])) for key in ("audio", "ref_audio") if row.get(key)]
                digest.update(repr(stamps).encode())
    return digest.hexdigest()


def _base(settings: Settings) -> dict[str, Any]:
    local = [p for p in (settings.init_model_path, settings.tokenizer_path) if p and Path(p).expanduser().is_dir()]
    return _identities(*local)


def _texts(settings: Settings) -> dict[str, Any]:
    from job.evaluate.synthesize import texts_file

    return _identities(texts_file(settings))


def _repos(settings: Settings) -> list[str]:
    """Where push would upload to: a token given later must not find the skipped push done."""
    from job.publish.push import intent

    return intent(settings)


def _nothing(settings: Settings) -> None:
    return None


_MODEL, _DATA, _VOICE = variables.ModelVariables, variables.DataVariables, variables.VoiceVariables
_TRAINING, _PUBLISH = variables.TrainingVariables, variables.PublishVariables
_SYNTHESIS = variables.SynthesisVariables

STAGES: tuple[Stage, ...] = (
    Stage("doctor", "job.doctor:run", variables.GROUPS, (), lambda s: (_sources(s), _base(s)), lambda p: []),
    Stage("fetch", "job.fetch:run", (_DATA, _VOICE), (), _sources, lambda p: [p.manifest("train")], _arrived),
    Stage(
        "prepare",
        "job.prepare:run",
        (_MODEL, _DATA, _VOICE),
        ("fetch",),
        lambda s: (_recordings(s), _base(s)),
        lambda p: [p.prepared / "train", p.prepared / "summary.json", p.speakers],
        spread=True,
    ),
    Stage(
        "train",
        "job.train:run",
        (_MODEL, _VOICE, _TRAINING, "export", "base_model_id"),
        ("prepare",),
        _base,
        lambda p: [p.best / "training_state.json", p.last / "training_state.json", p.training_log],
        spread=True,
    ),
    Stage(
        "validate",
        "job.publish.validate:run",
        (_MODEL, _DATA, _TRAINING, _PUBLISH),  # what the card tells
        ("train",),
        _nothing,
        lambda p: [p.best / "README.md"],
    ),
    Stage("push", "job.publish.push:run", (_PUBLISH,), ("train", "validate"), _repos, lambda p: []),
    Stage(
        "synthesize",
        "job.evaluate.synthesize:run",
        (_MODEL, _VOICE, _SYNTHESIS),
        ("train",),
        _texts,
        lambda p: [p.samples / "stats.json"],
    ),
    Stage(
        "report",
        "job.evaluate.report:run",
        variables.GROUPS,
        ("doctor", "fetch", "prepare", "train", "validate", "push", "synthesize"),
        _nothing,
        lambda p: [p.report],
    ),
)

NAMES = tuple(stage.name for stage in STAGES)


def stage(name: str) -> Stage:
    """The stage of that name.

    Raises:
        BadInput: there is none.
    """
    for candidate in STAGES:
        if candidate.name == name:
            return candidate
    raise BadInput(f"{name!r} is not a stage; the stages are {', '.join(NAMES)}")


def between(settings: Settings, first: str, last: str) -> tuple[Stage, ...]:
    """The stages that a run from `first` to `last` goes through; PREPARE_ONLY ends it at prepare.

    Raises:
        BadInput: the names are unknown or in the wrong order.
    """
    start, end = NAMES.index(stage(first).name), NAMES.index(stage(last).name)
    if start > end:
        raise BadInput(f"--from {first} comes after --until {last}")
    if settings.prepare_only:
        end = min(end, NAMES.index("prepare"))
    return STAGES[start : end + 1]


def run(settings: Settings, first: str = NAMES[0], last: str = NAMES[-1], ranks: Ranks = ALONE) -> None:
    """Run the stages from `first` to `last`, leaving out what is already done.

    Args:
        ranks: the processes that take part; with several, all stages are of those that are spread.

    Raises:
        BadInput: the names are unknown or in the wrong order.
        JobError: whatever a stage refuses with.
    """
    stages = between(settings, first, last)
    if settings.prepare_only:
        say("run", "PREPARE_ONLY: stopping after prepare")
    failed: SpeechFailed | None = None
    ranks.first_does(lambda: _check_surroundings(settings, stages))
    with _locked(settings, ranks):
        for one in stages:
            try:
                run_stage(settings, one, ranks)
            except SpeechFailed as error:
                failed = error  # the report is what shows it best
    if failed is not None:
        raise failed


def _check_surroundings(settings: Settings, stages: tuple[Stage, ...]) -> None:
    for line in surroundings.check(environment(), settings, [one.name for one in stages]):
        warn("run", line)


@contextmanager
def _locked(settings: Settings, ranks: Ranks) -> Iterator[None]:
    """The work directory is this run's; its first process holds the lock for all."""
    with ExitStack() as held:
        ranks.first_does(lambda: held.enter_context(WorkLock(settings.paths.state)) and None)
        yield


def run_stage(settings: Settings, stage: Stage, ranks: Ranks = ALONE) -> bool:
    """Run one stage unless it is done. Returns whether it ran."""
    values = stage_values(settings, stage)
    # Of the inputs as they are before the stage reads them: one that changes meanwhile is read again by the next run.
    now = ranks.first_does(lambda: _due(settings, stage, values))
    if now is None:
        return False
    say(stage.name, "started")
    started = time.monotonic()
    counts = stage.run(settings, ranks)
    if stage.spread:
        _let_go()
    if ranks.first:
        state.write(
            settings.paths.state,
            stage.name,
            fingerprint=now,
            outputs=stage.outputs(settings.paths),
            counts=counts,
            values=values,
            started=started,
        )
    ranks.wait()
    say(stage.name, f"done in {time.monotonic() - started:.1f} s")
    return True


def _let_go() -> None:
    """Free the memory of models that a stage is done with, for the next one's: their modules refer to one another, and
    torch does not have Python look for what is unused before it says that a GPU's memory is used up."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.cuda.empty_cache()  # which does nothing where no GPU has been used


def _due(settings: Settings, stage: Stage, values: dict[str, Any]) -> str | None:
    """The stage's fingerprint as things are now; None, and a line that says why, when it has nothing to do."""
    paths = settings.paths
    if settings.data_mode == "none" and stage.name in ("fetch", "prepare"):
        if not (paths.prepared / "summary.json").exists():
            raise BadInput(f"DATA_MODE=none needs prepared data, and {paths.prepared} has none; run prepare first")
        say(stage.name, "left out: DATA_MODE=none")
        return None
    if stage.name == "synthesize" and settings.train_mode == "lora" and settings.export == "adapter":
        say(stage.name, "left out: EXPORT=adapter makes nothing that speaks by itself; EXPORT=both or merged does")
        return None
    previous = state.read(paths.state, stage.name)
    now = fingerprint(settings, stage, values)
    if previous and previous.get("fingerprint") == now and not settings.force:
        missing = [path for path in stage.outputs(paths) if not path.exists()]
        arrived = None if missing else stage.arrived(paths)
        if arrived:
            say(stage.name, f"{arrived} is there now: doing this stage again")
        elif not missing:
            when = str(previous.get("finished", ""))[:19]
            say(stage.name, f"nothing to do: done {when} UTC with the same settings and inputs (FORCE=true redoes it)")
            return None
        else:
            say(stage.name, f"{missing[0]} is gone: doing this stage again")
    return now


def stage_values(settings: Settings, stage: Stage) -> dict[str, Any]:
    """The variables, by canonical name, that the stage's result follows from."""
    names: set[str] = set()
    for used in stage.uses:
        names |= {used.upper()} if isinstance(used, str) else {field.upper() for field in used.model_fields}
    return {name: value for name, value in settings.fingerprint_values().items() if name in names}


def fingerprint(settings: Settings, stage: Stage, values: dict[str, Any]) -> str:
    """The stage's fingerprint as things are now."""
    upstream = {name: state.digest(settings.paths.state, name) for name in stage.after}
    return state.fingerprint(stage.name, values, stage.inputs(settings), upstream)
