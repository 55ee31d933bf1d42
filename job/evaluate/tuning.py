"""Choose the best checkpoint's temperature, and its adapter's scale, by what judges say of its speech (TUNE_SPEECH).

A model that was trained on little speech can say its sentences right at a lower temperature than the base model's, and
an adapter that was trained for too long at a lower scale. Higher values are not tried.
"""

from __future__ import annotations

from typing import Any

from job.config.settings import Settings
from job.core import console, files
from job.core.errors import first_line
from job.evaluate.trial import Asked, asked, best_of, difference, figures_of
from job.model.voices import has_adapter, scale_in_place

STAGE = "choose"
#: What TEMPERATURE, and then the adapter's scale, is multiplied by; 1 is kept unless another is clearly better.
TEMPERATURES = (1.0, 0.8, 0.6)
SCALES = (1.0, 0.85, 0.7)
#: The checkpoint's file with what stock `generate` uses where it is told nothing, and the names for both its models.
DEFAULTS, NAMES = "generation_config.json", ("temperature", "subtalker_temperature")


def run(settings: Settings) -> dict[str, Any]:
    """Try a few temperatures, then a few scales, and make the best ones those of `output/best`.

    The temperature is written to its `generation_config.json`, the scale into its weights. Whatever fails in judging,
    nothing is changed, with one line that says so.

    Returns:
        What `training_state.json` then has under `speech`: temperature, lora_scale, and why. An adapter that was
        scaled before is not scaled again.
    """
    best = settings.paths.best
    progress = files.read_json(best / "training_state.json")
    before: dict[str, Any] = progress.get("speech") or {}
    told = {"temperature": settings.temperature, "lora_scale": before.get("lora_scale", 1.0), "why": []}
    scale = 1.0
    try:
        wanted = asked(settings)
        if not settings.greedy:
            options = [round(settings.temperature * factor, 3) for factor in TEMPERATURES]
            told["temperature"], why = _best(settings, "temperature", options, wanted)
            told["why"].append(why)
        if settings.lora_scale == 1.0 and told["lora_scale"] == 1.0 and has_adapter(best):
            cooler = settings.model_copy(update={"temperature": told["temperature"]})
            scale, why = _best(cooler, "lora_scale", list(SCALES), wanted)
            told["lora_scale"] = scale
            told["why"].append(why)
    except Exception as error:  # whatever the error, the checkpoint speaks as it is
        told = {"temperature": settings.temperature, "lora_scale": before.get("lora_scale", 1.0)}
        told["why"] = [f"as judging failed, nothing was tried: {first_line(error)}"]
        scale = 1.0
        console.warn(STAGE, told["why"][0])
    else:
        for line in told["why"]:
            console.say(STAGE, line)
    _install(settings, {**progress, "speech": told}, float(told["temperature"]), scale)
    return told


def _best(settings: Settings, variable: str, options: list[float], wanted: Asked) -> tuple[float, str]:
    """Try the values of one variable; returns the best one, and a sentence that says why."""
    figures = {}
    for value in options:
        tried = settings.model_copy(update={variable: value})
        name = f"temperature-{tried.temperature:g}-scale-{tried.lora_scale:g}"  # the first scale has been heard already
        figures[value] = figures_of(tried, name, f"{variable.upper()}={value:g}", settings.paths.best, wanted)
    winner, reason = best_of(figures, options)
    others = ", ".join(f"{value:g}" for value in options if value != winner)
    said = f"{variable.upper()}={winner:g} of {', '.join(f'{value:g}' for value in options)}"
    if reason is None:
        return winner, f"{said}: none of {others} is clearly better"
    what, here, there = difference(figures, reason, winner, options[0])
    return winner, f"{said}: {what} {here}, at {options[0]:g} {there}"


def _install(settings: Settings, progress: dict[str, Any], temperature: float, scale: float) -> None:
    """Write the temperature and the note into `output/best`, and scale its adapter."""
    best = settings.paths.best
    defaults = best / DEFAULTS
    changed: dict[str, Any] = {}
    if defaults.is_file() and not settings.greedy:
        changed[DEFAULTS] = {**files.read_json(defaults), **dict.fromkeys(NAMES, temperature)}
    changed["training_state.json"] = progress  # last: with it, the rest is known to be there
    if scale != 1.0:
        scale_in_place(best, scale, changed)
        return
    for name, content in changed.items():
        files.write_json(best / name, content)
