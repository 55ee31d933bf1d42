"""A stage reads no variable that it does not name: else a change of it would leave an old result in place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from job.config.settings import Settings, load, variables
from job.stages import STAGES, fingerprint, stage_values

JOB = Path(__file__).resolve().parents[1] / "job"
#: The stages of each room; doctor and report take all variables.
STAGES_OF = {
    "fetch": ["fetch"],
    "prepare": ["prepare"],
    "train": ["train"],
    "publish": ["validate", "push"],
    "evaluate": ["synthesize"],
}
#: Fields that a stage reads and that do not make it run anew, and why.
APART = {
    "fetch": {"asr_model"},  # what was transcribed by one recogniser is kept (`data/transcripts.jsonl`)
    "prepare": {"asr_model"},  # named later, to judge the test speech, it must not begin a finished training anew
}


def read_in(source: str) -> set[str]:
    """Fields that code reads of something called `settings`, `_settings` or `given`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in Settings.model_fields:
            of = node.value
            name = of.id if isinstance(of, ast.Name) else of.attr if isinstance(of, ast.Attribute) else ""
            if name.lstrip("_") in ("settings", "given"):
                found.add(node.attr)
    return found


def named_by(stages: list[str]) -> set[str]:
    """Fields that these stages' results depend on."""
    found: set[str] = set()
    for stage in STAGES:
        if stage.name in stages:
            for used in stage.uses:
                found |= {used} if isinstance(used, str) else set(used.model_fields)
    return found


@pytest.mark.parametrize("room", STAGES_OF)
def test_a_stage_names_every_variable_that_it_reads(room: str) -> None:
    free = {variable.field for variable in variables() if variable.free}
    named = named_by(STAGES_OF[room]) | free | APART.get(room, set())
    read = {path.name: read_in(path.read_text(encoding="utf-8")) - named for path in (JOB / room).rglob("*.py")}
    assert {name: fields for name, fields in read.items() if fields} == {}
    assert len(set().union(*(read_in(p.read_text(encoding="utf-8")) for p in (JOB / room).rglob("*.py")))) > 3


def test_what_a_stage_leaves_apart_it_does_not_read() -> None:
    """Other people of the same recordings (KEEP_SPEAKERS) are no reason to download them anew."""
    apart = {stage.name: set(stage.apart) for stage in STAGES if stage.apart}
    assert apart == {"fetch": {"keep_speakers"}}
    read = set().union(*(read_in(path.read_text(encoding="utf-8")) for path in (JOB / "fetch").rglob("*.py")))
    assert not read & apart["fetch"]
    main, split = (load({"PRESET": "demo", "WORK_DIR": "/nowhere", "KEEP_SPEAKERS": one}) for one in ("main", "split"))
    fetch, prepare = (one for one in STAGES if one.name in ("fetch", "prepare"))
    assert stage_values(main, fetch) == stage_values(split, fetch)
    assert stage_values(main, prepare) != stage_values(split, prepare)


def test_what_a_stage_names_are_variables() -> None:
    names = {used for stage in STAGES for used in stage.uses if isinstance(used, str)}
    assert names <= set(Settings.model_fields)


def test_a_read_of_another_variable_would_be_seen() -> None:
    assert read_in("def f(settings, self):\n    return settings.language, self._settings.seed, other.greedy") == {
        "language",
        "seed",
    }


@pytest.mark.parametrize(
    "changed", [{"MIRROR_CHECKPOINTS": "/elsewhere"}, {"NOTIFY_URL": "ntfys://x"}, {"DEVICE": "cpu"}]
)
def test_doctor_looks_again_at_what_it_has_not_seen_and_training_does_not_begin_anew(changed: dict[str, str]) -> None:
    """A mirror that is first named on a rerun was never written to: else its absence is found when it is needed."""
    values = {"PRESET": "demo", "WORK_DIR": "/nowhere"}
    before, after = (load(one) for one in (values, {**values, **changed}))

    def same(name: str) -> bool:
        (stage,) = (one for one in STAGES if one.name == name)
        prints = {fingerprint(one, stage, stage_values(one, stage)) for one in (before, after)}
        return len(prints) == 1

    assert not same("doctor") and same("fetch") and same("train")
