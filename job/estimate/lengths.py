"""The lengths of the prepared samples and the largest batch that training will form; without torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from job.config.settings import Settings
from job.dataset.prepared import read_split
from job.estimate.activations import Load
from job.loss import layout
from job.loss.flat_columns import LONGEST_REFERENCE
from job.loss.packing import pack_in_windows
from job.model import loading

#: Number of longest rows whose text is tokenized; the others are assumed to have as many tokens per byte.
TOKENIZED = 1000
#: Number of rows that are packed to find how many batches there are; the others fill as many.
PACKED = 20_000


@dataclass(frozen=True)
class Lengths:
    """Lengths of the training rows, each of shape (rows,).

    Attributes:
        frames: frames of the recording.
        positions: all positions in the longest layout (exact for the longest rows).
        usual: the mean of all positions over the layouts.
    """

    frames: NDArray[np.int64]
    positions: NDArray[np.int64]
    usual: NDArray[np.float64]

    @classmethod
    def of(cls, settings: Settings) -> Lengths:
        """Read the prepared data; TEXT_LAYOUT and ICL_FRACTION decide which layouts there are.

        Raises:
            BadInput: there is no prepared dataset.
        """
        table = read_split(settings.paths, "train")
        frames = pc.list_value_length(table["codes"]).to_numpy().astype(np.int64)
        written = np.stack([_bytes(table[name]) for name in ("text", "instruct")])
        longest = np.argsort(-(frames + written.sum(0)), kind="stable")[:TOKENIZED]
        tokens = _tokens(settings, [table[name].take(longest).to_pylist() for name in ("text", "instruct")])
        share = tokens.sum() / max(1, written[:, longest].sum())
        counted = np.ceil(share * written).astype(np.int64)
        counted[:, longest] = tokens
        streaming = settings.text_layout == "streaming"
        template = layout.ROLE_TOKENS + layout.CLOSING_TOKENS
        around = layout.positions_around(template, streaming=streaming, named_language=True)
        said = np.zeros_like(frames) if streaming else counted[0]
        usual = said * (0.5 if settings.text_layout == "mixed" else 1.0)
        references = frames[frames <= LONGEST_REFERENCE]
        if settings.icl_fraction and len(references):
            # Cloning puts a reference recording before the frames, and its text before the text.
            said = np.maximum(said, references.max())
            usual += settings.icl_fraction * (references.mean() - usual)
        without = frames + counted[1] + around
        return cls(frames, without + said, without + usual)

    @property
    def mean(self) -> float:
        """The mean length of a sample in positions."""
        return float(self.usual.mean())

    def batches(self, settings: Settings) -> int:
        """The number of micro-batches of an epoch."""
        rows = len(self.usual)
        if settings.tokens_per_batch is None:
            return math.ceil(rows / settings.batch_size)
        packed = np.ceil(self.usual[:PACKED]).astype(np.int64)
        found = sum(1 for _ in pack_in_windows(range(len(packed)), packed, settings.tokens_per_batch))
        return math.ceil(found * rows / len(packed))

    def largest(self, settings: Settings) -> Load:
        """The largest micro-batch, or a slight overestimate.

        Batches are filled up to TOKENS_PER_BATCH, with the average share of frames; a longer sample is a batch of its
        own. With BATCH_SIZE, rows of similar length are batched, so the longest ones may be together.
        """
        if settings.tokens_per_batch is None:
            rows = np.argsort(-self.positions, kind="stable")[: settings.batch_size]
            return _load(int(self.positions[rows].sum()), int(self.frames[rows].sum()), len(rows))
        total = int(self.positions.sum())
        positions = min(settings.tokens_per_batch, total)
        if positions < self.positions.max():
            return self.longest()
        return _load(positions, math.ceil(positions * self.frames.sum() / total), math.ceil(positions / self.mean))

    def longest(self) -> Load:
        """A micro-batch of only the longest sample."""
        row = int(self.positions.argmax())
        return _load(int(self.positions[row]), int(self.frames[row]), 1)


def part(load: Load, pieces: int) -> Load:
    """The largest part when a batch of similar samples is split into this many parts."""
    return Load(*(math.ceil(count / pieces) for count in (load.positions, load.frames, load.samples, load.texts)))


def _load(positions: int, frames: int, samples: int) -> Load:
    return Load(positions, frames, samples, texts=max(1, positions - frames))


def _bytes(column: pc.ChunkedArray) -> NDArray[np.int64]:
    found: NDArray[np.int64] = pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64)
    return found


def _tokens(settings: Settings, texts: list[list[str | None]]) -> NDArray[np.int64]:
    """Token counts of texts (without the chat template's tokens) and of instructions, of shape (2, rows)."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(  # type: ignore[no-untyped-call]
        str(loading.base_directory(settings))
    )
    templates: tuple[Callable[[str], str], ...] = (str, layout.instruct_template)
    counts = []
    for column, template in zip(texts, templates, strict=True):
        said = [template(text) for text in column if text]
        lengths = iter([len(ids) for ids in tokenizer(said)["input_ids"]] if said else [])
        counts.append([next(lengths) if text else 0 for text in column])
    return np.asarray(counts, dtype=np.int64).reshape(2, -1)
