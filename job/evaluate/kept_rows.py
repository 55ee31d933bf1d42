"""One row for each thing that the base model can do: its figures, the finished checkpoint's, and whether it is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from job.evaluate.comparison import mean
from job.evaluate.judges.figures import BY_NAME
from job.evaluate.other_seeds import APART

#: Share of the samples that must fail more than the base's do, and error rate of characters above the base's.
FAILED, WRONG = 0.5, 0.3
#: The judges' figures in a row.
FIGURES = ("similarity", "similarity_independent", "cer", "letters_per_second", "pitch")

Told = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One row, as in stats.json.

    Attributes:
        ability: `cloning`, `preset` or `instructions`.
        label: its name in the report.
        base: figures of the base model's speech; None if it was not asked, or failed.
        voice: the finished checkpoint's.
        lost: whether it is lost; None if that cannot be told.
        why: by which figures; or why it cannot be told.
        expected: whether nothing else was to be expected, so that it is no warning.
    """

    ability: str
    label: str
    base: dict[str, Any] | None
    voice: dict[str, Any] | None
    lost: bool | None = None
    why: str = ""
    expected: bool = False

    def shown(self, side: str) -> str:
        """Format the figures of `base` or `voice`; empty if there are none."""
        figures = self.base if side == "base" else self.voice
        return "" if figures is None else "; ".join(_shown(figures))


def figures_of(some: Sequence[Told] | None) -> dict[str, Any] | None:
    """Sum up samples: how many stop by themselves and fail a check, and the mean figures; None without samples."""
    if not some:
        return None
    return {
        "samples": len(some),
        "stopped": sum(bool(one["stopped_by_eos"]) for one in some),
        "failed": sum(not one["passed"] for one in some),
        **{name: mean(some, name) for name in FIGURES},
    }


def compared(ability: str, label: str, base: dict[str, Any] | None, voice: dict[str, Any] | None) -> Row:
    """Compare the checkpoint's speech with the base's: stops, checks, words, and whose voice it is."""
    if base is None or voice is None:
        return Row(ability, label, base, voice)
    why = []
    for name, verb in (("stopped", "stop by themselves"), ("failed", "fail a check")):
        worse = voice[name] / voice["samples"] - base[name] / base["samples"]
        if (worse if name == "failed" else -worse) >= FAILED:
            told = (
                f"{voice[name]} of {voice['samples']} samples {verb}, of the base's {base[name]} of {base['samples']}"
            )
            why.append(told)
    for name, sign, limit in (("cer", -1, WRONG), ("similarity", 1, APART), ("similarity_independent", 1, APART)):
        there, here = base[name], voice[name]
        if there is not None and here is not None and sign * (there - here) > limit:
            figure = BY_NAME[name]
            why.append(f"{figure.label.lower()} {figure.shown(here)}, the base's {figure.shown(there)}")
    if not why and base["failed"] == base["samples"]:
        return Row(ability, label, base, voice, None, "all of the base's own samples fail a check")
    return Row(ability, label, base, voice, bool(why), "; ".join(why))


def _shown(figures: Mapping[str, Any]) -> list[str]:
    """Format the figures of one side."""
    parts = [
        f"{BY_NAME[name].label.lower()} {BY_NAME[name].shown(figures[name])}"
        for name in ("similarity", "similarity_independent", "cer")
        if figures.get(name) is not None
    ]
    if "samples" in figures:
        parts.append(f"{figures['stopped']} of {figures['samples']} stop, {figures['failed']} fail a check")
    if figures.get("rate_change") is not None:
        parts.append(f"rate {BY_NAME['rate_drift'].shown(figures['rate_change'], sign=True).replace(' points', ' %')}")
    if figures.get("pitch_change") is not None:
        parts.append(f"pitch {figures['pitch_change']:+.1f} semitones".replace("-", "−"))
    if figures.get("identical"):
        parts.append(f"{BY_NAME['cer'].shown(figures['identical'])} to the sample the same")
    return parts
