"""What the base model can do, and whether the finished checkpoint still can: cloning, preset speakers, instructions.

Both say a few short texts, once, after the test speech (KEPT_ABILITIES). Whatever fails here leaves its figures empty.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config.settings import Settings
from job.core import console, files
from job.core.errors import first_line
from job.evaluate import kept_cloning, kept_instructions, kept_presets, said_once, spoken_texts
from job.evaluate.baselines import Recording, reference_of
from job.evaluate.judges.independent import Independent
from job.evaluate.judges.judge import Clip, Judge
from job.evaluate.judges.ratings import Ratings
from job.evaluate.judges.similarity import Similarity
from job.evaluate.kept_rows import Row, Told
from job.evaluate.said_once import Saying, Side
from job.evaluate.samples import describe, heard_as
from job.evaluate.speaking import Sample
from job.model.loading import base_directory, read_config
from job.model.voices import ENCODER_FILE

if TYPE_CHECKING:
    from qwen_tts import Qwen3TTSModel

    from job.evaluate.speaking import Prompts

    Loaders = Mapping[Side, Callable[[], Qwen3TTSModel]]

STAGE = "synthesize"


@dataclass
class Plan:
    """What is asked: of whom to make another person, which presets there are, and which instructions.

    Attributes:
        base: directory of the base model.
        voice: the finished checkpoint.
        sayings: all that is said.
        recording: what another person is made of; None if nothing is cloned.
        presets: speakers of the base that were not trained on.
        pair: instructions to try, if any.
        left_out: ability -> why it is not asked.
    """

    base: Path
    voice: Path
    sayings: list[Saying] = field(default_factory=list)
    recording: Recording | None = None
    presets: list[str] = field(default_factory=list)
    pair: kept_instructions.Pair | None = None
    left_out: dict[str, str] = field(default_factory=dict)


def left_out(settings: Settings, device: str) -> str | None:
    """Return why nothing is asked; None if it is."""
    if settings.kept_abilities is False:
        return "KEPT_ABILITIES=false"
    if settings.kept_abilities is None and device == "cpu":
        return "on a CPU it would take long (KEPT_ABILITIES=true does it)"
    return None


def samples_at_most(settings: Settings) -> int:
    """How many samples both models say for this kind of base, 0 with KEPT_ABILITIES=false. Loads no weights."""
    if settings.kept_abilities is False:
        return 0
    base = base_directory(settings)
    config = read_config(base)
    cloned = kept_cloning.sayings(config, settings.language) if can_clone(base) else []
    presets = kept_presets.presets_of(config, ())
    said = [*cloned, *(kept_presets.sayings(config, presets) if presets else [])]
    pair = kept_instructions.pair_of(config, presets, (), "", settings.language)
    said += [] if isinstance(pair, str) else kept_instructions.sayings(config, pair)
    return sum(len(one.utterances) * len(one.seeds) for one in said)


def can_clone(directory: Path) -> bool:
    """Whether a model can clone: a Base model, or one that this job made of it, which keeps its speaker encoder."""
    return read_config(directory).kind == "base" or (directory / ENCODER_FILE).is_file()


def of(
    settings: Settings,
    directory: Path,
    rows: Sequence[spoken_texts.Row],
    references: Sequence[Recording],
    judges: Sequence[Judge],
    loaders: Loaders,
) -> dict[str, Any]:
    """Have both models say what tells, and compare.

    Args:
        settings: sampling, as for the test speech, but never greedy: a voice that is lost is lost in samples.
        directory: the finished checkpoint.
        rows: prepared rows (speaker, language, instruct).
        references: prepared recordings, one of which becomes another person.
        judges: those of the test speech.
        loaders: load either model; called only where speech is missing.

    Returns:
        `rows`, `left_out` (ability -> why it was not asked) and `warnings`, for stats.json.
    """
    settings = settings.model_copy(update={"greedy": False})
    try:
        plan = plan_of(settings, directory, rows, references, judges)
        found = _compared(settings, plan, judges, loaders)
        left = plan.left_out
    except Exception as error:  # whatever the error, the voice itself is said and judged
        console.warn(STAGE, f"what the base model can do besides is not compared: {first_line(error)}")
        return {"rows": [], "left_out": {"all": first_line(error)}, "warnings": []}
    return {
        "rows": [asdict(one) for one in found],
        "left_out": left,
        "warnings": [*map(_warning, filter(_lost, found))],
    }


def plan_of(
    settings: Settings,
    directory: Path,
    rows: Sequence[spoken_texts.Row],
    references: Sequence[Recording],
    judges: Sequence[Judge],
) -> Plan:
    """Decide what is asked of these two models; see `of` for the arguments."""
    base = base_directory(settings)
    plan, config = Plan(base, directory), read_config(base)
    languages = spoken_texts.languages_by_speaker(rows)
    speaker = min(languages) if languages else spoken_texts.speakers_of(read_config(directory), directory)[0]
    language = languages.get(speaker, settings.language)

    plan.recording = reference_of(references, speaker, set(spoken_texts.shipped(language)))
    if not (can_clone(base) and can_clone(directory)):
        plan.left_out["cloning"] = "there is no speaker encoder"
    elif plan.recording is None or _encoder(judges) is None:
        plan.left_out["cloning"] = "there is no recording to make another person of"
    else:
        plan.sayings += kept_cloning.sayings(config, language)
    plan.presets = kept_presets.presets_of(config, languages)
    if plan.presets:
        plan.sayings += kept_presets.sayings(config, plan.presets)
    else:
        plan.left_out["preset"] = "the base model has no preset speakers"
    used = [name for name, _ in Counter(row["instruct"] for row in rows if row.get("instruct")).most_common(2)]
    pair = kept_instructions.pair_of(config, plan.presets, used, speaker, language)
    if isinstance(pair, str):
        plan.left_out["instructions"] = pair
    else:
        plan.pair = pair
        plan.sayings += kept_instructions.sayings(config, pair)
    return plan


def _compared(settings: Settings, plan: Plan, judges: Sequence[Judge], loaders: Loaders) -> list[Row]:
    """Say everything that is not kept from an earlier run, judge it, and compare."""
    samples, person, size = _said(settings, plan, _encoder(judges), loaders)
    if not samples:
        return []
    clips = [*kept_presets.references(samples), *([person.clip] if person else [])]
    order = [(name, sample) for name, some in samples.items() for sample in some]
    ratings = Ratings(_comparing_with(judges, clips), settings.paths.kept / "judged.jsonl")
    figures = ratings.of(clips, [heard_as(sample) for _, sample in order])
    told: dict[str, list[Told]] = {name: [] for name in samples}
    for (name, sample), one in zip(order, figures, strict=True):
        told[name].append({**describe(sample, name, size), **one})
    found = (
        kept_cloning.rows(told, spoken_texts.LAYOUTS[settings.text_layout])
        if any(name.startswith("cloning") for name in told)
        else []
    )
    found += kept_presets.rows(told, plan.presets)
    if plan.pair:
        found.append(kept_instructions.row(told, samples, plan.pair))
    return found


def _said(
    settings: Settings, plan: Plan, encoder: Any, loaders: Loaders
) -> tuple[dict[str, list[Sample]], kept_cloning.Person | None, int]:
    """The samples by name of the saying, without what failed; the other person; and samples a frame."""
    directory = settings.paths.kept
    found: dict[str, list[Sample]] = {}
    reference = (
        files.digest_bytes(repr(plan.recording).encode() + plan.recording.codes.tobytes()) if plan.recording else ""
    )
    person = kept_cloning.kept_person(directory / "person.npz", reference)
    sides: tuple[tuple[Side, Path], ...] = (("base", plan.base), ("voice", plan.voice))
    for side, path in sides:
        model: Qwen3TTSModel | None = None
        broken = False
        for one in (one for one in plan.sayings if one.by == side):
            key = said_once.key_of(one, settings, path, reference if one.way else "")
            kept = directory / f"{one.name}.npz"
            said = said_once.kept(kept, key)
            if said is not None and not (one.way and person is None):
                found[one.name] = said
                continue
            if broken:
                continue
            try:
                if model is None:
                    broken = True  # unless it can be loaded
                    console.say(STAGE, f"saying what the base model can do besides with {path}")
                    model = loaders[side]()
                    broken = False
                if one.way and person is None and plan.recording is not None:
                    person = kept_cloning.make_person(model, encoder, plan.recording)
                    kept_cloning.keep_person(directory / "person.npz", reference, person)
                prompts: Prompts | None = person.prompts(one.way) if one.way and person else None
                found[one.name] = said_once.say(model, one, settings, prompts)
                said_once.keep(kept, key, found[one.name])
            except Exception as error:  # whatever the error, its column stays empty
                console.warn(STAGE, f"{one.name} is left out: {first_line(error)}")
        del model
        gc.collect()  # a model's modules are in reference cycles, which would keep their memory
    size = next((round(s.waveform.size / s.frames) for some in found.values() for s in some if s.frames), 1)
    return found, person, size


def _encoder(judges: Sequence[Judge]) -> Any:
    """The base model's speaker encoder, if a judge has loaded it."""
    return next((judge.encoder for judge in judges if isinstance(judge, Similarity)), None)


def _comparing_with(judges: Sequence[Judge], clips: Sequence[Clip]) -> list[Judge]:
    """The same judges, but those of similarity compare with these clips; naturalness is not asked."""
    found: list[Judge] = []
    for judge in judges:
        if isinstance(judge, Similarity):
            found.append(judge.towards(clips))
        elif isinstance(judge, Independent):
            found.append(Independent(judge.by, judge.extractor, judge.model, judge.device))
        elif judge.name != "mos":
            found.append(judge)
    return found


def _lost(row: Row) -> bool:
    return bool(row.lost) and not row.expected


def _warning(row: Row) -> str:
    """A sentence about what is lost."""
    return f"{row.label}: lost in training ({row.why}); fewer steps, a lower LEARNING_RATE or TRAIN_MODE=lora keep more"
