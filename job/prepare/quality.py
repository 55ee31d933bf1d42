"""Figures about the data: gathered row by row while it is encoded, written as quality.json and a page."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from job.prepare.audio import Figures, text_mismatch
from job.prepare.codec import Codes
from job.prepare.encode import Item
from job.prepare.rows import Row

#: Upper edges of the duration histogram in seconds; the last bin is open.
DURATION_EDGES = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 10.0, 15.0, 20.0, 30.0)
#: Row ids kept as examples of each warning.
EXAMPLES = 5


@dataclass(slots=True)
class Kept:
    """What is remembered of an encoded row; its codes are in the spool at `position`."""

    id: str
    split: str
    number: int
    source: str
    speaker: str
    language: str
    audio: Path | None
    ref_audio: Path | None
    characters: int
    frames: int
    seconds: float
    digest: bytes
    position: int
    figures: Figures | None


class Tally:
    """Everything that is counted while rows pass by."""

    def __init__(self, books: int, codebook_size: int, frame_rate: float) -> None:
        self.frame_rate = frame_rate
        self.kept: list[Kept] = []
        self.rejected: list[dict[str, Any]] = []
        self.warnings: dict[str, list[str]] = {}
        self.used = np.zeros((books, codebook_size), dtype=bool)
        self.first_frame: Codes | None = None
        self.distinct_frames = False

    def add(self, item: Item, codes: Codes) -> Kept:
        """Count an encoded row; `codes` is (frames, books)."""
        row, seconds = item.row, len(codes) / self.frame_rate
        self.used[np.arange(codes.shape[1])[None, :], codes] = True
        if self.first_frame is None:
            self.first_frame = codes[0].copy()
        self.distinct_frames = self.distinct_frames or bool((codes != self.first_frame).any())
        for warning in item.figures.warnings() if item.figures else []:
            self.warnings.setdefault(warning, []).append(row.id)
        if text_mismatch(row.text, item.figures.seconds if item.figures else seconds):
            self.warnings.setdefault("text_mismatch", []).append(row.id)
        kept = Kept(
            id=row.id,
            split=row.split,
            number=row.number,
            source=row.source,
            speaker=row.speaker,
            language=row.language,
            audio=row.audio,
            ref_audio=row.ref_audio,
            characters=len(row.text),
            frames=len(codes),
            seconds=seconds,
            digest=hashlib.sha256(np.ascontiguousarray(codes).tobytes()).digest(),
            position=len(self.kept),
            figures=item.figures,
        )
        self.kept.append(kept)
        return kept

    def reject(self, row: Row, reason: str, detail: str) -> None:
        """Count a row that is left out."""
        self.rejected.append(row.refused(reason, detail))

    @property
    def duplicates(self) -> int:
        """Rows whose codes another row had before them."""
        return len(self.kept) - len({row.digest for row in self.kept})

    @property
    def distinct_per_book(self) -> list[int]:
        """How many different codes occur in each codebook."""
        return [int(n) for n in self.used.sum(axis=1)]

    def rejected_by_reason(self) -> dict[str, int]:
        """Reason -> rows left out, most frequent first."""
        return dict(Counter(str(row.get("reason")) for row in self.rejected).most_common())


def figures_of(tally: Tally, problems: Sequence[str], copies: int = 0) -> dict[str, Any]:
    """The contents of quality.json; `copies` are the augmented rows."""
    kept = tally.kept
    measured = [row.figures for row in kept if row.figures is not None]
    leaked = _shared_digests(kept)
    return {
        "rows": len(kept),
        "hours": round(sum(row.seconds for row in kept) / 3600, 4),
        "augmented_rows": copies,
        "splits": _seconds_by(kept, "split"),
        "speakers": _seconds_by(kept, "speaker"),
        "languages": _seconds_by(kept, "language"),
        "durations": _histogram([row.seconds for row in kept]),
        "seconds": _spread(row.seconds for row in kept),
        "rms_dbfs": _spread(f.rms for f in measured),
        "peak_dbfs": _spread(f.peak for f in measured),
        "snr_db": _spread(f.snr for f in measured),
        "clipped_share": _spread(f.clipped for f in measured),
        "sample_rates": {str(rate): n for rate, n in sorted(Counter(f.rate for f in measured).items())},
        "channels": {str(n): count for n, count in sorted(Counter(f.channels for f in measured).items())},
        "rejected": tally.rejected_by_reason(),
        "warnings": {
            name: {"rows": len(ids), "examples": ids[:EXAMPLES]} for name, ids in sorted(tally.warnings.items())
        },
        "distinct_codes_per_book": tally.distinct_per_book,
        "codebook_size": int(tally.used.shape[1]),
        "duplicate_rows": tally.duplicates,
        "validation_rows_also_in_train": leaked,
        "problems": list(problems),
    }


def frames_per_character(rows: Iterable[Kept], percentile: float = 95.0) -> float:
    """Codec frames a character of text, 95th percentile over the rows: bounds how long speech may take."""
    ratios = [row.frames / max(1, row.characters) for row in rows]
    return float(np.percentile(ratios, percentile)) if ratios else 0.0


def _shared_digests(kept: Sequence[Kept]) -> int:
    trained = {row.digest for row in kept if row.split == "train"}
    return sum(row.digest in trained for row in kept if row.split == "validation")


def _seconds_by(kept: Sequence[Kept], attribute: str) -> dict[str, dict[str, float]]:
    groups: dict[str, list[float]] = {}
    for row in kept:
        groups.setdefault(getattr(row, attribute), []).append(row.seconds)
    return {name: {"rows": len(values), "seconds": round(sum(values), 2)} for name, values in sorted(groups.items())}


def _histogram(seconds: Sequence[float]) -> list[dict[str, Any]]:
    bounds = [0.0, *DURATION_EDGES, np.inf]
    counts, _ = np.histogram(np.asarray(seconds, dtype=np.float64), bounds)
    return [
        {"from": low, "to": None if np.isinf(high) else high, "rows": int(count)}
        for low, high, count in zip(bounds, bounds[1:], counts, strict=False)
    ]


def _spread(values: Iterable[float]) -> dict[str, float] | None:
    """Smallest, 5th percentile, median, 95th percentile and largest; None without values."""
    array = np.asarray(list(values), dtype=np.float64)
    if not len(array):
        return None
    points = np.percentile(array, [0, 5, 50, 95, 100])
    return {name: round(float(v), 4) for name, v in zip(("min", "p5", "median", "p95", "max"), points, strict=True)}
