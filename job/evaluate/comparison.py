"""Comparison of the voice with its recordings and the base model: mean figures and significant differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from job.evaluate.judges.figures import FIGURES, Figure

#: Sources by their names in stats.json, in the order of the table's columns.
SOURCES = {
    "recordings": "Recordings",
    "codec": "Codec",
    "base": "Base, x-vector",
    "base_in_context": "Base, in context",
    "voice": "Voice",
}
#: The base model's two ways of cloning.
BASES = ("base", "base_in_context")
#: A mean difference of more than this many standard errors is significant; the minimum number of texts.
ERRORS, FEWEST = 2.0, 3

Told = Mapping[str, Sequence[Mapping[str, Any]]]


def compare(told: Told) -> list[dict[str, Any]]:
    """Build one row per measured figure, as in stats.json.

    `told` has the judges' figures for each source's clips. Those of the voice and of the base model are for the same
    texts in the same order, and are compared text by text.
    """
    rows = []
    for figure in FIGURES:
        means = {source: mean(told.get(source, ()), figure.name) for source in SOURCES}
        if means["voice"] is None:
            continue
        row: dict[str, Any] = {"figure": figure.name, "label": figure.label, **means}
        reached = figure.mark(means["voice"])
        row["mark"] = reached
        row["delta"], row["against_base"], row["base_used"] = _against_base(figure, told, means)
        rows.append(row)
    return rows


def mean(clips: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the mean of a figure over the clips that have it."""
    values = [float(one[name]) for one in clips if one.get(name) is not None]
    return round(sum(values) / len(values), 6) if values else None


def own(row: Mapping[str, Any]) -> float | None:
    """Return the recordings' value, after the codec if known: the best the voice can reach."""
    ceiling: float | None = row["codec"] if row["codec"] is not None else row["recordings"]
    return ceiling


def as_its_recordings(figure: Figure, row: Mapping[str, Any]) -> bool:
    """Return whether the voice's figure is at least as good as that of its own recordings."""
    ceiling = own(row)
    if ceiling is None:
        return False
    worse = row["voice"] - ceiling if figure.better == "lower" else ceiling - row["voice"]
    return bool(worse <= 2 * figure.least)


def _against_base(
    figure: Figure, told: Told, means: Mapping[str, float | None]
) -> tuple[float | None, str | None, str | None]:
    """Return voice minus base (in its better way of cloning), `better`, `worse` or `same`, and that way."""
    ways = [(way, goods) for way in BASES if (goods := _goods(figure, told, way, means))]
    if not ways:
        return None, None, None
    # The base's better way is the one against which the voice's advantage is smallest.
    way, goods = min(ways, key=lambda one: float(np.mean(one[1])))
    voice, base = means["voice"], means[way]
    assert voice is not None and base is not None  # there are pairs of them
    good = float(np.mean(goods))
    error = float(np.std(goods, ddof=1)) / math.sqrt(len(goods)) if len(goods) >= FEWEST else math.inf
    clear = abs(good) >= figure.least and abs(good) > ERRORS * error
    return round(voice - base, 6), ("better" if good > 0 else "worse") if clear else "same", way


def _goods(figure: Figure, told: Told, way: str, means: Mapping[str, float | None]) -> list[float]:
    """By how much the voice is better than the base, text by text."""
    pairs = zip(told.get("voice", ()), told.get(way, ()), strict=False)
    both = [(voice.get(figure.name), base.get(figure.name)) for voice, base in pairs]
    values = [(float(v), float(b)) for v, b in both if v is not None and b is not None]
    if figure.better != "near":
        sign = -1.0 if figure.better == "lower" else 1.0
        return [sign * (voice - base) for voice, base in values]
    target = means["codec"] if means["codec"] is not None else means["recordings"]
    if target is None:
        return []
    return [abs(base - target) - abs(voice - target) for voice, base in values]
