"""The stages in order: what each depends on, reads and writes, and when it can be skipped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings

from job.config import variables
from job.config.paths import Paths, written_by_a_run
from job.config.settings import Settings
from job.core import files, state
from job.core.errors import BadInput
from job.modes import mode_of
from job.processes.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: also the name of the command and of the state file.
        function: `module:function`, imported when the stage runs.
        uses: groups of variables that its result depends on, and single fields of other groups.
        apart: fields of those groups that its result does not depend on.
        contents: a digest of what it has made, if later stages need not be redone where that is as it was.
        after: stages whose results it builds on.
        inputs: identities of what it reads from outside the work directory.
        outputs: files that must still exist for the stage to count as done.
        arrived: a file that was missing on the last run and exists now; None when there is none.
        left_out: why these settings skip the stage, in a few words; None when they do not.
        spread: whether it is distributed: run by all processes of a run.
        reads_source: whether it reads the data source; `inputs` and the stage are then given the same one.
    """

    name: str
    function: str
    uses: tuple[type[BaseSettings] | str, ...]
    after: tuple[str, ...]
    inputs: Callable[..., Any]
    outputs: Callable[[Paths], list[Path]]
    arrived: Callable[[Paths], Path | None] = lambda paths: None
    left_out: Callable[[Settings], str | None] = lambda settings: None
    spread: bool = False
    reads_source: bool = False
    apart: tuple[str, ...] = ()
    contents: Callable[[Paths], str | None] = lambda paths: None

    def source(self, settings: Settings) -> tuple[Any, ...]:
        """The data source, opened anew, if the stage reads it; else nothing."""
        return (_fetch().opened(settings),) if self.reads_source else ()

    def run(self, settings: Settings, ranks: Ranks = ALONE, source: tuple[Any, ...] = ()) -> dict[str, Any]:
        """Import the stage and run it."""
        module, name = self.function.split(":")
        function = getattr(import_module(module), name)
        result: dict[str, Any] = function(settings, *source, *([ranks] if self.spread else []))
        return result


def _identities(*paths: Path | str | None) -> dict[str, Any]:
    return {str(path): files.identity(Path(path).expanduser(), written_by_a_run) for path in paths if path}


def _fetch() -> Any:
    """`job.fetch`, imported when it is used: RunPod's worker reads the stages' names without its packages."""
    return import_module("job.fetch")


def _sources(settings: Settings, source: Any) -> Any:
    return _identities(*(source.files if source else ())), _fetch().revision(settings, source)


def _recordings(settings: Settings) -> str:
    """One digest over the size and modification time of every file that the manifests name."""
    digest = hashlib.sha256(repr(_identities(settings.ref_audio_path)).encode())
    for split in ("train", "validation"):
        manifest = settings.paths.manifest(split)
        if manifest.exists():
            for row in files.read_jsonl(manifest):
                stamps = [files.stamp(Path(row[key])) for key in ("audio", "ref_audio") if row.get(key)]
                digest.update(repr(stamps).encode())
    return digest.hexdigest()


def _decided(settings: Settings) -> dict[str, Any]:
    """What people decided about single rows; nothing where there is no such file."""
    return _identities(settings.paths.edits) if settings.paths.edits.is_file() else {}


def _base(settings: Settings) -> dict[str, Any]:
    local = [p for p in (settings.init_model_path, settings.tokenizer_path) if p and Path(p).expanduser().is_dir()]
    return _identities(*local)


def _texts(settings: Settings) -> dict[str, Any]:
    from job.evaluate.synthesize import texts_file

    return _identities(texts_file(settings))


def _repos(settings: Settings) -> list[str]:
    """The repositories that push would upload to: a push skipped without a token must run once there is one."""
    from job.publish.push import intent

    return intent(settings)


def _looked_at(settings: Settings, source: Any) -> Any:
    """What `doctor` looks at: also where other stages' results do not depend on it."""
    return (
        _sources(settings, source),
        _base(settings),
        settings.mirror_checkpoints,
        settings.notify_url,
        settings.device,
        settings.push_steps,
    )


def _tried(settings: Settings) -> Any:
    """What TUNE_SPEECH starts from; nothing without it, so that other runs' choices stay as they are."""
    return (
        (settings.temperature, settings.greedy, settings.lora_scale, _texts(settings)) if settings.tune_speech else None
    )


def _figures(settings: Settings) -> list[str]:
    return [files.digest_file(path) for path in (settings.paths.quality, settings.paths.rejected) if path.is_file()]


def _prepared_already(settings: Settings) -> str | None:
    if settings.data_mode != "none":
        return None
    prepared = settings.paths.prepared
    if not (prepared / "summary.json").exists():
        raise BadInput(f"DATA_MODE=none needs prepared data, but {prepared} has none; run prepare first")
    return "DATA_MODE=none"


def _cannot_speak(settings: Settings) -> str | None:
    if not mode_of(settings).merged(settings):
        return "EXPORT=adapter writes no model that can speak on its own; use EXPORT=both or merged"
    return None


_MODEL, _DATA, _VOICE = variables.ModelVariables, variables.DataVariables, variables.VoiceVariables
_TRAINING, _PUBLISH = variables.TrainingVariables, variables.PublishVariables
_SYNTHESIS = variables.SynthesisVariables

STAGES: tuple[Stage, ...] = (
    Stage("doctor", "job.doctor:run", variables.GROUPS, (), _looked_at, lambda p: [], reads_source=True),
    Stage(
        "fetch",
        "job.fetch:run",
        (_DATA, _VOICE),
        (),
        _sources,
        lambda p: [p.manifest("train")],
        lambda p: _fetch().arrived(p),  # type: ignore[no-any-return]
        left_out=_prepared_already,
        reads_source=True,
        apart=("keep_speakers",),
    ),
    Stage(
        "prepare",
        "job.prepare:run",
        (_MODEL, _DATA, _VOICE),
        ("fetch",),
        lambda s: (_recordings(s), _base(s), *([edits] if (edits := _decided(s)) else [])),
        lambda p: [p.prepared / "train", p.prepared / "summary.json", p.speakers],
        left_out=_prepared_already,
        spread=True,
        contents=lambda p: files.digest_tree(p.prepared),
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
        (_MODEL, _DATA, _TRAINING, _PUBLISH, "text_layout"),  # what the model card describes
        ("train", "choose"),
        lambda s: None,
        lambda p: [p.best / "README.md"],
    ),
    Stage(
        "push", "job.publish.push:run", (_PUBLISH, "synth_gate"), ("train", "choose", "validate"), _repos, lambda p: []
    ),
    Stage(
        "synthesize",
        "job.evaluate.synthesize:run",
        (_MODEL, _VOICE, _SYNTHESIS, "language", "text_normalizer"),
        ("train", "choose"),
        _texts,
        lambda p: [p.samples / "stats.json"],
        left_out=_cannot_speak,
    ),
    Stage(
        "report",
        "job.evaluate.report:run",
        variables.GROUPS,
        ("doctor", "fetch", "prepare", "train", "validate", "push", "synthesize"),
        _figures,  # others may leave the prepared data as they were
        lambda p: [p.report],
    ),
)


#: Follows training with BEST_BY=judges or TUNE_SPEECH, before anything reads the best checkpoint: no stage of its own.
CHOICE = Stage(
    "choose",
    "job.evaluate.choose:run",
    ("best_by",),  # the others cannot be chosen from again
    ("train",),
    _tried,
    lambda p: [p.best / "training_state.json"],
    left_out=_cannot_speak,
)


def chooses(settings: Settings) -> bool:
    """Whether `CHOICE` has anything to choose."""
    return settings.best_by == "judges" or settings.tune_speech


def release(outcome: str) -> Stage:
    """The end of publishing, which follows the last stage: not a stage of its own, but with a state file as they have.

    Args:
        outcome: what became of the test speech: `passed`, `refused` by SYNTH_GATE, or `unheard`.
    """
    return Stage(
        "release",
        f"job.publish.release:{outcome}",
        (_PUBLISH, "synth_gate"),
        ("push", "synthesize", "report"),
        lambda s: (outcome, _repos(s), _identities(s.paths.samples / "stats.json")),
        lambda p: [],
    )


NAMES = tuple(stage.name for stage in STAGES)


def stage(name: str) -> Stage:
    """The stage with this name.

    Raises:
        BadInput: no stage has it.
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


def stage_values(settings: Settings, stage: Stage) -> dict[str, Any]:
    """The variables, by canonical name, that the stage's result depends on."""
    names: set[str] = set()
    for used in stage.uses:
        names |= {used.upper()} if isinstance(used, str) else {field.upper() for field in used.model_fields}
    names -= {field.upper() for field in stage.apart}
    return {name: value for name, value in settings.fingerprint_values().items() if name in names}


def fingerprint(settings: Settings, stage: Stage, values: dict[str, Any], source: tuple[Any, ...] = ()) -> str:
    """The stage's fingerprint for the current settings and inputs, `source` (see `Stage.source`) among them."""
    upstream = {name: state.digest(settings.paths.state, name) for name in stage.after}
    inputs = stage.inputs(settings, *(source or stage.source(settings)))
    return state.fingerprint(stage.name, values, inputs, upstream)
