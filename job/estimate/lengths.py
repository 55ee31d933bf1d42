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
from job.model import loading
from job.train import layout
from job.train.flat_columns import LONGEST_REFERENCE

#: Number of longest rows whose text is tokenized; the others are assumed to have as many tokens per byte.
TOKENIZED = 1000


@dataclass(frozen=True)
class Lengths:
    """Lengths of the training rows: frames, and all positions (exact for the longest rows), both of shape (rows,)."""

    frames: NDArray[np.int64]
    positions: NDArray[np.int64]

    @classmethod
    def of(cls, settings: Settings) -> Lengths:
        """Read the prepared data; lengths are those of the longest layout that TEXT_LAYOUT and ICL_FRACTION allow.

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
        if settings.icl_fraction:  # cloning puts a reference recording before the frames, and its text before the text
            said = np.maximum(said, frames[frames <= LONGEST_REFERENCE].max(initial=0))
        return cls(frames, frames + said + counted[1] + around)

    @property
    def mean(self) -> float:
        """The mean length of a sample in positions."""
        return float(self.positions.mean())

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
