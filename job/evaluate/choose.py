"""Choose `output/best` by what judges say of the speech of several checkpoints (BEST_BY=judges), and how it speaks.

Reads `output/best`, which has the lowest validation loss, and `output/candidates`, the checkpoints of the last
validations. Each says the same few texts with the same few seeds. `docs/judging.md` has the rule.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from job.config.paths import Paths
from job.config.settings import Settings
from job.core import console, files, links
from job.core.errors import first_line
from job.evaluate import tuning
from job.evaluate.trial import asked, best_of, difference, figures_of

STAGE = "choose"


def run(settings: Settings) -> dict[str, Any]:
    """Choose the checkpoint, if training has left several, then how it speaks (TUNE_SPEECH).

    Returns:
        What was found for each, under `chosen` and `speech`.
    """
    found = {"chosen": best_checkpoint(settings)} if settings.paths.candidates.is_dir() else {}
    if settings.tune_speech:
        found["speech"] = tuning.run(settings)
    shutil.rmtree(settings.paths.choosing, ignore_errors=True)
    return found


def best_checkpoint(settings: Settings) -> dict[str, Any]:
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
            wanted = asked(settings)
            figures = {
                step: figures_of(settings, f"step-{step}", f"the checkpoint of step {step}", found[step], wanted)
                for step in among
            }
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
    order = sorted(figures, key=lambda step: (step != lowest, losses[step]))
    winner, reason = best_of(figures, order)
    said = f"chosen by judges: step {winner}, of steps {', '.join(map(str, sorted(figures)))}"
    if reason is None:
        return winner, f"{said}, which has the lowest loss as well"
    label, here, there = difference(figures, reason, winner, lowest)
    return winner, f"{said}; {label} {here}, at step {lowest}, which has the lowest loss, {there}"


def _install(best: Path, winner: Path, chosen: dict[str, Any]) -> None:
    """Make a checkpoint the best one, with a note in its `training_state.json`."""
    progress = {**files.read_json(winner / "training_state.json"), "chosen": chosen}
    if winner == best:
        files.write_json(best / "training_state.json", progress)
        return

    def fill(target: Path) -> None:
        links.copy_tree(winner, target)
        files.write_json(target / "training_state.json", progress)

    files.replace_directory(best, fill)


def _done(paths: Paths, chosen: dict[str, Any]) -> dict[str, Any]:
    shutil.rmtree(paths.candidates, ignore_errors=True)
    return chosen
