"""Have a checkpoint say a few texts with a few seeds, judge the speech, and decide by the figures.

`choose.py` compares checkpoints in this way and `tuning.py` ways of sampling; `docs/judging.md` has the rule.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from job.config.settings import Settings
from job.core import console, files
from job.evaluate import baselines, own, spoken_texts
from job.evaluate.comparison import mean
from job.evaluate.judges.figures import BY_NAME, Figure
from job.evaluate.judges.judge import Judge
from job.evaluate.judges.ratings import Ratings
from job.evaluate.judges.registry import load_judges
from job.evaluate.samples import describe, file_name, heard_as
from job.evaluate.speaking import conditions, speak_with_seeds
from job.evaluate.synthesize import load_voice, prepared, rows_of
from job.model.loading import read_config, resolve_device

if TYPE_CHECKING:
    import pyarrow as pa

#: Texts that are said, and how often, each time with another seed.
TEXTS, SEEDS = 4, 3
#: Figures in the order in which they decide. Each leaves those that are no worse than the best of those left by more
#: than the smallest difference worth mentioning; with a dozen samples one failed check may be chance.
CRITERIA = (
    Figure("failed", "samples that fail a check", "%", 0, "lower", 0.1),
    *(BY_NAME[name] for name in ("cer", "similarity", "mos")),
)
Option = TypeVar("Option", int, float)


@dataclass(frozen=True)
class Asked:
    """What is to be said, and who judges it."""

    utterances: list[spoken_texts.Utterance]
    splits: list[pa.Table]
    frames_per_character: float
    judges: Sequence[Judge]


def asked(settings: Settings) -> Asked:
    """Choose the texts: held-out ones if there are any, else TEST_TEXTS, else texts of the data."""
    paths = settings.paths
    summary, splits = prepared(paths)
    config = read_config(paths.best)
    speakers = spoken_texts.speakers_of(config, paths.best)
    held_out = splits[:1] if splits and len(splits[0]) else []
    plain = settings.model_copy(update={"test_texts": None}) if held_out else settings
    said = spoken_texts.plan(plain, config, speakers, rows_of(held_out or splits), only_data=True)
    return Asked(
        utterances=[said[index] for index in spoken_texts.spread(len(said), TEXTS)],
        splits=splits,
        frames_per_character=spoken_texts.frames_per_character(summary),
        judges=load_judges(settings, str(resolve_device(settings))),
    )


def figures_of(settings: Settings, name: str, label: str, directory: Path, wanted: Asked) -> dict[str, float | None]:
    """Have a checkpoint say the texts, and return the mean figures; what a killed run has judged is not redone.

    Args:
        settings: sampling and LORA_SCALE are used.
        name: of the file that keeps the result, without its ending.
        label: what is tried, for the log.
        directory: the checkpoint.
        wanted: what it says.
    """
    kept = settings.paths.choosing / f"{name}.json"
    key = _key(settings, directory, wanted)
    if kept.is_file() and (told := files.read_json(kept))["key"] == key:
        return dict(told["figures"])
    seeds = 1 if settings.greedy else SEEDS
    console.say("choose", f"saying {len(wanted.utterances) * seeds} samples with {label}")
    model = load_voice(directory, settings)
    by_seed = speak_with_seeds(model, wanted.utterances, settings, wanted.frames_per_character, range(SEEDS))
    samples = [sample for some in by_seed for sample in some]
    tokenizer: Any = model.model.speech_tokenizer  # type: ignore[attr-defined]
    names = sorted({one.speaker for one in wanted.utterances})
    recordings = baselines.through_codec(model, baselines.choose(wanted.splits, names))
    owns = own.of_speakers(model, wanted.splits, names) if wanted.splits else {}
    size = int(tokenizer.get_decode_upsample_rate())
    del model, tokenizer
    gc.collect()  # the voice's modules are in reference cycles, which would keep their memory
    described = [
        describe(sample, file_name(number, sample.utterance), size, owns.get(sample.utterance.speaker))
        for number, sample in enumerate(samples)
    ]
    told = Ratings(wanted.judges, settings.paths.choosing / "judged.jsonl").of(recordings, [*map(heard_as, samples)])
    figures: dict[str, float | None] = {
        "failed": sum(not one["passed"] for one in described) / len(described),
        **{one.name: _mean(told, one.name) for one in CRITERIA[1:]},
    }
    files.write_json(kept, {"key": key, "figures": figures})
    return figures


def best_of(
    figures: Mapping[Option, Mapping[str, float | None]], order: Sequence[Option]
) -> tuple[Option, Figure | None]:
    """Decide between options by the figures of their speech.

    Args:
        figures: option -> figures of its speech; one that not all options have does not count.
        order: the options; of those whose speech is as good, the first one wins.

    Returns:
        the best option, and the figure by which the first one lost; None if the first one is the best.
    """
    left = list(order)
    reason: Figure | None = None
    for criterion in CRITERIA:
        values = {one: value for one in left if (value := figures[one].get(criterion.name)) is not None}
        if len(values) < len(left):
            continue
        best = min(values.values()) if criterion.better == "lower" else max(values.values())
        kept = [one for one in left if abs(values[one] - best) <= criterion.least + 1e-9]
        reason = criterion if order[0] in left and order[0] not in kept else reason
        left = kept
    return left[0], reason


def difference(
    figures: Mapping[Option, Mapping[str, float | None]], reason: Figure, winner: Option, other: Option
) -> tuple[str, str, str]:
    """The name of the figure that decided, and its values for the winner and for another option, as they are shown."""
    label = reason.label[0].lower() + reason.label[1:]
    return label, reason.shown(figures[winner][reason.name]), reason.shown(figures[other][reason.name])


def _mean(told: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The mean of a figure over all samples; None if it is missing for one, as then the means would be of others."""
    return mean(told, name) if all(one.get(name) is not None for one in told) else None


def _key(settings: Settings, directory: Path, wanted: Asked) -> str:
    """A digest of everything that the figures of a checkpoint depend on."""
    how, weights = conditions(settings, directory)
    return files.digest_bytes(repr((how, weights, wanted.utterances, [one.by for one in wanted.judges])).encode())
