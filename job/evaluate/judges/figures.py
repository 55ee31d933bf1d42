"""Figures that judges report: names, units, which direction is better, and the marks (thresholds) to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Names of the marks, from none reached to all.
MARKS = ("below the minimum", "minimum", "target", "excellent")


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: its name in stats.json.
        label: its label in tables.
        unit: `%` for a share from 0 to 1, `s` and the like, or empty.
        digits: decimals shown.
        better: whether more is better, or less, or being close to the voice's own recordings.
        least: smallest difference worth mentioning.
        short: its name in a sentence; empty if the verdict does not mention it.
        marks: thresholds for minimum, target and excellent; None if none are established.
    """

    name: str
    label: str
    unit: str
    digits: int
    better: Literal["higher", "lower", "near"]
    least: float
    short: str = ""
    marks: tuple[float, float, float] | None = None

    def shown(self, value: float | None, *, sign: bool = False) -> str:
        """Format a value, or with `sign` a difference of two values."""
        if value is None:
            return "–"
        scaled, unit = (100 * value, " %") if self.unit == "%" else (value, f" {self.unit}" if self.unit else "")
        if sign and self.unit == "%":
            unit = " points"
        scaled = round(scaled, self.digits) + 0.0  # no minus sign on zero
        return f"{scaled:{'+' if sign else ''}.{self.digits}f}{unit}".replace("-", "−")

    def mark(self, value: float) -> int | None:
        """Return how many of the three marks a value reaches; None if there are no marks."""
        if self.marks is None:
            return None
        return sum(value <= mark if self.better == "lower" else value >= mark for mark in self.marks)


#: In table order. The marks are those that practitioners who train this model use; see docs/judging.md.
FIGURES = [
    Figure("mos", "Naturalness (MOS)", "", 2, "higher", 0.1, "naturalness", (2.5, 3.5, 4.2)),
    Figure("similarity", "Similarity", "%", 0, "higher", 0.02, "similarity", (0.5, 0.7, 0.85)),
    Figure("similarity_independent", "Similarity, independent", "%", 0, "higher", 0.02),
    Figure("similarity_seeds", "Least similar of three seeds", "%", 0, "higher", 0.05),
    Figure("similarity_start", "First 2 s against the rest", "%", 0, "higher", 0.05),
    Figure("similarity_drift", "End against the beginning", "%", 0, "higher", 0.05),
    Figure("wer", "Word error rate", "%", 1, "lower", 0.02, "errors of words", (0.4, 0.25, 0.15)),
    Figure("cer", "Character error rate", "%", 1, "lower", 0.01),
    Figure("letters_per_second", "Speaking rate", "letters/s", 1, "near", 0.5),
    Figure("rate_drift", "Rate of the end against the beginning", "%", 0, "near", 0.1),
    Figure("pitch", "Pitch", "Hz", 0, "near", 5.0),
    Figure("pitch_range", "Range of the pitch", "semitones", 1, "near", 0.5),
]
BY_NAME = {figure.name: figure for figure in FIGURES}
