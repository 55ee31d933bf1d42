"""Choose `output/best` by what judges say of the speech of several checkpoints of one training (BEST_BY=judges).

Reads `output/best`, which has the lowest validation loss, and `output/candidates`, the checkpoints of the last
validations. Each says the same few texts with the same few seeds. `docs/judging.md` has the rule.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from job.config.paths import Paths
from job.config.settings import Settings
from job.core import console, files
from job.core.errors import first_line
from job.evaluate import baselines, own, spoken_texts
from job.evaluate.comparison import mean
from job.evaluate.judges.figures import BY_NAME, Figure
from job.evaluate.judges.judge import Judge
from job.evaluate.judges.ratings import Ratings
from job.evaluate.judges.registry import load_judges
from job.evaluate.samples import describe, file_name, heard_as
from job.evaluate.speaking import Sample, speak
from job.evaluate.synthesize import load_voice, prepared, rows_of
from job.model.loading import read_config, resolve_device

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "choose"
#: Texts that each checkpoint says, and how often, each time with another seed.
TEXTS, SEEDS = 4, 3
#: Figures in the order in which they decide. Each leaves the checkpoints that are no worse than the best of those left
#: by more than the smallest difference worth mentioning; with a dozen samples one failed check may be chance.
CRITERIA = (
    Figure("failed", "samples that fail a check", "%", 0, "lower", 0.1),
    *(BY_NAME[name] for name in ("cer", "similarity", "mos")),
)


@dataclass(frozen=True)
class Asked:
    """What each checkpoint is asked to say, and who judges it."""

    utterances: list[spoken_texts.Utterance]
    splits: list[pa.Table]
    frames_per_character: float
    judges: Sequence[Judge]


def run(settings: Settings) -> dict[str, Any]:
    """Make `output/best` the best checkpoint by its speech, and remove the candidates.

    Whatever fails in judging, the lowest loss then decides, with one line that says so.

    Returns:
        What `training_state.json` of the best checkpoint then has under `chosen`: the step, the step with the lowest
        loss, the steps it was chosen among, and why.
    """
    paths = settings.paths
    held = files.read_json(paths.best / "training_state.json")
    lowest = int(held["step"])
    found = {int(path.name.removeprefix("step-")): path for path in paths.candidates.glob("step-*")}
    if held.get("chosen") and found.keys() <= set(held["chosen"]["among"]):  # a kill came before they were removed
        return _done(paths, held["chosen"])
    found[lowest] = paths.best
    among = sorted(found)
    figures: dict[int, dict[str, float | None]] = {}
    try:
        if len(found) > 1:
            asked = _asked(settings)
            figures = {step: _figures(settings, step, found[step], asked) for step in among}
        losses = {step: float(files.read_json(path / "training_state.json")["loss"]) for step, path in found.items()}
        winner, why = pick(figures, losses, lowest)
    except Exception as error:  # whatever the error, there is a checkpoint to go on with
        winner, why = lowest, f"chosen by the loss, as judging failed: {first_line(error)}"
        console.warn(STAGE, why)
    else:
        console.say(STAGE, why)
    chosen = {"step": winner, "lowest_loss_step": lowest, "among": among, "why": why, "figures": figures}
    _install(paths.best, found[winner], chosen)
    return _done(paths, chosen)


def pick(
    figures: Mapping[int, Mapping[str, float | None]], losses: Mapping[int, float], lowest: int
) -> tuple[int, str]:
    """Return the best checkpoint's step, and why it is the best.

    Args:
        figures: step -> figures of its speech; one that not all checkpoints have does not count.
        losses: step -> loss, which decides between checkpoints whose speech is as good.
        lowest: the step that the loss alone would choose.
    """
    if len(figures) < 2:
        return lowest, f"chosen by the loss: step {lowest}, the only one there is"
    left = sorted(figures, key=lambda step: (step != lowest, losses[step]))
    reason: Figure | None = None
    for criterion in CRITERIA:
        values = {step: value for step in left if (value := figures[step].get(criterion.name)) is not None}
        if len(values) < len(left):
            continue
        best = min(values.values()) if criterion.better == "lower" else max(values.values())
        kept = [step for step in left if abs(values[step] - best) <= criterion.least + 1e-9]
        reason = criterion if lowest in left and lowest not in kept else reason
        left = kept
    winner = left[0]
    said = f"chosen by judges: step {winner} of {', '.join(map(str, sorted(figures)))}"
    if reason is None:
        return winner, f"{said}, which has the lowest loss as well"
    here, there = (reason.shown(figures[step][reason.name]) for step in (winner, lowest))
    label = reason.label[0].lower() + reason.label[1:]
    return winner, f"{said}; {label} {here}, at step {lowest}, which has the lowest loss, {there}"


def _asked(settings: Settings) -> Asked:
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
        frames_per_character=float(summary.get("frames_per_character") or spoken_texts.FRAMES_PER_CHARACTER),
        judges=load_judges(settings, str(resolve_device(settings))),
    )


def _figures(settings: Settings, step: int, directory: Path, asked: Asked) -> dict[str, float | None]:
    """Have one checkpoint say the texts, and return the mean figures; what a killed run has judged is not redone."""
    kept = settings.paths.choosing / f"step-{step}.json"
    key = _key(settings, directory, asked)
    if kept.is_file() and (told := files.read_json(kept))["key"] == key:
        return dict(told["figures"])
    console.say(STAGE, f"saying {len(asked.utterances) * _seeds(settings)} samples with the checkpoint of step {step}")
    model = load_voice(directory, settings)
    samples: list[Sample] = []
    for number in range(_seeds(settings)):
        seeded = settings.model_copy(update={"seed": settings.seed + number})
        samples += speak(model, asked.utterances, seeded, asked.frames_per_character)
    tokenizer: Any = model.model.speech_tokenizer  # type: ignore[attr-defined]
    names = sorted({one.speaker for one in asked.utterances})
    recordings = baselines.through_codec(model, baselines.choose(asked.splits, names))
    owns = own.of_speakers(model, asked.splits, names) if asked.splits else {}
    size = int(tokenizer.get_decode_upsample_rate())
    del model, tokenizer
    gc.collect()  # the voice's modules are in reference cycles, which would keep their memory
    described = [
        describe(sample, file_name(number, sample.utterance), size, owns.get(sample.utterance.speaker))
        for number, sample in enumerate(samples)
    ]
    told = Ratings(asked.judges, settings.paths.choosing / "judged.jsonl").of(recordings, [*map(heard_as, samples)])
    figures: dict[str, float | None] = {
        "failed": sum(not one["passed"] for one in described) / len(described),
        **{one.name: _mean(told, one.name) for one in CRITERIA[1:]},
    }
    files.write_json(kept, {"key": key, "figures": figures})
    return figures


def _mean(told: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The mean of a figure over all samples; None if it is missing for one, as then the means would be of others."""
    return mean(told, name) if all(one.get(name) is not None for one in told) else None


def _seeds(settings: Settings) -> int:
    return 1 if settings.greedy else SEEDS


def _key(settings: Settings, directory: Path, asked: Asked) -> str:
    """A digest of everything that the figures of a checkpoint depend on."""
    names = ("seed", "greedy", "temperature", "top_p", "top_k", "max_new_tokens", "lora_scale", "mixed_precision")
    weights = [files.stamp(path)[1:] for path in sorted(directory.glob("*.safetensors"))]
    how = [getattr(settings, name) for name in names]
    return files.digest_bytes(repr((how, weights, asked.utterances, [one.by for one in asked.judges])).encode())


def _install(best: Path, winner: Path, chosen: dict[str, Any]) -> None:
    """Make a checkpoint the best one, with a note in its `training_state.json`."""
    progress = {**files.read_json(winner / "training_state.json"), "chosen": chosen}
    if winner == best:
        files.write_json(best / "training_state.json", progress)
        return

    def fill(target: Path) -> None:
        shutil.copytree(winner, target, dirs_exist_ok=True)
        files.write_json(target / "training_state.json", progress)

    files.replace_directory(best, fill)


def _done(paths: Paths, chosen: dict[str, Any]) -> dict[str, Any]:
    shutil.rmtree(paths.candidates, ignore_errors=True)
    shutil.rmtree(paths.choosing, ignore_errors=True)
    return chosen
