"""Collect statistics of the data from the encoded shards, for quality.json and its HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.dataset.prepared import SPLITS
from job.prepare.noted import Column
from job.prepare.page import SHOWN_REJECTED
from job.prepare.split import rank

#: Upper edges of the duration histogram in seconds; the last bin is open.
DURATION_EDGES = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 10.0, 15.0, 20.0, 30.0)
#: Row ids kept as examples of each warning.
EXAMPLES = 5

#: Columns kept in memory for each kept row, about 90 bytes: millions of rows must fit. `source` is an index into SPLITS
#: for the manifest that the row's `position` is in. Measurements are NaN (or 0) for rows that arrived encoded.
_COLUMNS: dict[str, type[Any]] = {
    "source": np.uint8,
    "position": np.int64,
    "speaker": np.int32,
    "language": np.int32,
    "characters": np.int32,
    "frames": np.int32,
    "rank": np.uint64,
    "digest": np.uint64,
    "rms": np.float64,
    "peak": np.float64,
    "snr": np.float64,
    "clipped": np.float64,
    "rate": np.int32,
    "channels": np.int32,
    "speech": np.float64,
    "pause": np.float64,
}


class Names:
    """Assign numbers to names, in order of appearance."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def numbers(self, column: pa.ChunkedArray) -> NDArray[np.int32]:
        """Return the numbers of a column of names."""
        encoded = column.combine_chunks().dictionary_encode()
        known = [self._numbers.setdefault(name, len(self._numbers)) for name in encoded.dictionary.to_pylist()]
        numbers: NDArray[np.int32] = np.asarray(known, dtype=np.int32)[encoded.indices.to_numpy(zero_copy_only=False)]
        return numbers

    def __iter__(self) -> Any:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


class Tally:
    """Statistics accumulated shard by shard. The columns are complete after `close`.

    Attributes:
        kept: number of usable rows.
        validation: (kept,) whether a row is in the validation split.
        used: (codebooks, codebook_size) which codes occur.
        warnings: category -> number of rows and ids of the first ones.
        refused: number of rejected rows; `first_refused` has the first ones.
        mispaired: sources whose texts are shifted or shuffled against their recordings, one line each.
        voices: speaker -> how similar its clips sound, for quality.json.
        other_voices: rows (numbers of kept rows) that sound like someone other than their speaker.
    """

    def __init__(self, codebooks: int, codebook_size: int, frame_rate: float, seed: int) -> None:
        self.frame_rate = frame_rate
        self.speakers, self.languages = Names(), Names()
        self.kept = 0
        self.validation: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self.used = np.zeros((codebooks, codebook_size), dtype=bool)
        self.distinct_frames = False
        self.warnings: dict[str, tuple[int, list[str]]] = {}
        self.refused = 0
        self.first_refused: list[dict[str, Any]] = []
        self.mispaired: list[str] = []
        self.voices: dict[str, dict[str, Any]] = {}
        self.other_voices: list[int] = []
        self._seed = seed
        self._first_frame: NDArray[np.int16] | None = None
        self._reasons: Counter[str] = Counter()
        self._parts = {name: Column(kind) for name, kind in _COLUMNS.items()}
        self._columns: dict[str, NDArray[Any]] = {}

    def add(self, split: str, table: pa.Table) -> None:
        """Count the rows of a shard (`store.shard_schema`)."""
        usable = table["reason"].is_null()
        for row in refused_rows(split, table.filter(table["reason"].is_valid())):
            self.refuse(row)
        table = table.filter(usable)
        if not len(table):
            return
        self.kept += len(table)
        codes = table["codes"].combine_chunks()
        frames = codes.values.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(self.used))
        self.used[np.arange(len(self.used))[None, :], frames] = True
        if self._first_frame is None:
            self._first_frame = frames[0].copy()
        self.distinct_frames = self.distinct_frames or bool((frames != self._first_frame).any())
        for row_id, warnings in zip(table["id"].to_pylist(), table["warnings"].to_pylist(), strict=True):
            for warning in warnings:
                count, examples = self.warnings.get(warning, (0, []))
                self.warnings[warning] = count + 1, examples if count >= EXAMPLES else [*examples, row_id]
        values: dict[str, Any] = {
            "source": np.full(len(table), SPLITS.index(split)),
            "speaker": self.speakers.numbers(table["speaker"]),
            "language": self.languages.numbers(table["language"]),
            "frames": codes.value_lengths().to_numpy(zero_copy_only=False),
            "rank": [rank(self._seed, text) for text in table["text"].to_pylist()],
        }
        for name, kind in _COLUMNS.items():
            if name not in values:
                missing = np.nan if kind is np.float64 else 0
                values[name] = table[name].fill_null(missing).to_numpy()
            self._parts[name].add(values[name])

    def refuse(self, row: dict[str, Any]) -> None:
        """Count a rejected row."""
        self.refused += 1
        self._reasons[str(row.get("reason"))] += 1
        if len(self.first_refused) < SHOWN_REJECTED:
            self.first_refused.append(row)

    def close(self) -> None:
        """Concatenate the columns after the last shard."""
        for name in _COLUMNS:
            self._columns[name] = self._parts.pop(name).take()
        self.validation = self["source"] == SPLITS.index("validation")

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A column, (kept,)."""
        return self._columns[name]

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Length of each kept row, (kept,)."""
        return np.asarray(self["frames"] / self.frame_rate)

    @property
    def duplicates(self) -> int:
        """Number of rows whose codes repeat those of an earlier row."""
        return self.kept - len(np.unique(self["digest"]))

    @property
    def distinct_per_book(self) -> list[int]:
        """How many different codes occur in each codebook."""
        return [int(n) for n in self.used.sum(axis=1)]

    def rejected_by_reason(self) -> dict[str, int]:
        """Reason -> number of rejected rows, most frequent first."""
        return dict(self._reasons.most_common())

    def by(self, names: Sequence[str], numbers: NDArray[Any], digits: int) -> dict[str, dict[str, Any]]:
        """Name -> rows and seconds of the kept rows with its number, without names that have no rows."""
        rows = np.bincount(numbers, minlength=len(names))
        frames = np.bincount(numbers, weights=self["frames"], minlength=len(names))
        found = {
            name: {"rows": int(n), "seconds": round(float(f) / self.frame_rate, digits)}
            for name, n, f in zip(names, rows, frames, strict=True)
            if n
        }
        return dict(sorted(found.items()))


def refused_rows(split: str, table: pa.Table) -> Iterable[dict[str, Any]]:
    """Yield the lines of rejected.jsonl for a table of rejected rows."""
    for row in table.select(["number", "source", "id", "reason", "detail"]).to_pylist():
        yield {"split": split, "row": row.pop("number"), **row}


def figures_of(tally: Tally, problems: Sequence[str], copies: int = 0) -> dict[str, Any]:
    """Build the contents of quality.json; `copies` is the number of augmented rows."""
    seconds, measured = tally.seconds, tally["rate"] > 0
    return {
        "rows": tally.kept,
        "hours": round(float(seconds.sum()) / 3600, 4),
        "augmented_rows": copies,
        "splits": tally.by(SPLITS, tally.validation.astype(np.int64), 2),
        "speakers": tally.by(list(tally.speakers), tally["speaker"], 2),
        "voices": tally.voices,
        "languages": tally.by(list(tally.languages), tally["language"], 2),
        "durations": _histogram(seconds),
        "seconds": _spread(seconds),
        "rms_dbfs": _spread(tally["rms"][measured]),
        "peak_dbfs": _spread(tally["peak"][measured]),
        "snr_db": _spread(tally["snr"][measured]),
        "clipped_share": _spread(tally["clipped"][measured]),
        "speech_share": _spread(tally["speech"][measured]),
        "longest_pause": _spread(tally["pause"][measured]),
        "sample_rates": _counts(tally["rate"][measured]),
        "channels": _counts(tally["channels"][measured]),
        "rejected": tally.rejected_by_reason(),
        "warnings": {name: {"rows": n, "examples": ids} for name, (n, ids) in sorted(tally.warnings.items())},
        "distinct_codes_per_book": tally.distinct_per_book,
        "codebook_size": int(tally.used.shape[1]),
        "duplicate_rows": tally.duplicates,
        "validation_rows_also_in_train": shared_digests(tally),
        "problems": list(problems),
    }


def frames_per_character(tally: Tally, percentile: float = 95.0) -> float:
    """95th percentile of codec frames per character in the training rows; bounds the length of generated speech."""
    ratios = (tally["frames"] / np.maximum(1, tally["characters"]))[~tally.validation]
    return float(np.percentile(ratios, percentile)) if len(ratios) else 0.0


def shared_digests(tally: Tally) -> int:
    """Number of validation rows whose codes also occur in training."""
    digests, validation = tally["digest"], tally.validation
    return int(np.isin(digests[validation], digests[~validation]).sum())


def _counts(values: NDArray[Any]) -> dict[str, int]:
    return {str(value): int(n) for value, n in zip(*np.unique(values, return_counts=True), strict=True)}


def _histogram(seconds: NDArray[np.float64]) -> list[dict[str, Any]]:
    bounds = [0.0, *DURATION_EDGES, np.inf]
    counts, _ = np.histogram(seconds, bounds)
    return [
        {"from": low, "to": None if np.isinf(high) else high, "rows": int(count)}
        for low, high, count in zip(bounds, bounds[1:], counts, strict=False)
    ]


def _spread(values: NDArray[np.float64]) -> dict[str, float] | None:
    """Smallest, 5th percentile, median, 95th percentile and largest; None without values."""
    if not len(values):
        return None
    points = np.percentile(values, [0, 5, 50, 95, 100])
    return {name: round(float(v), 4) for name, v in zip(("min", "p5", "median", "p95", "max"), points, strict=True)}
