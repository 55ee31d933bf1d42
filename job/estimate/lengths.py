"""How long the prepared samples are, and the largest batch that training will make of them; without torch."""

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

#: Rows whose text is tokenized, the longest of all; the others' tokens are taken to be as many a byte.
TOKENIZED = 1000


@dataclass(frozen=True)
class Lengths:
    """Training rows by length: frames, and all positions (texts exact for the longest rows), both (rows,)."""

    frames: NDArray[np.int64]
    positions: NDArray[np.int64]

    @classmethod
    def of(cls, settings: Settings) -> Lengths:
        """Of the prepared data, as TEXT_LAYOUT and ICL_FRACTION lay it out at its longest.

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
        if settings.icl_fraction:  # cloning: a reference before the frames, and the text beside them
            said = np.maximum(said, frames[frames <= LONGEST_REFERENCE].max(initial=0))
        return cls(frames, frames + said + counted[1] + around)

    @property
    def mean(self) -> float:
        """Positions of a sample."""
        return float(self.positions.mean())

    def largest(self, settings: Settings) -> Load:
        """The largest batch, or a little more.

        TOKENS_PER_BATCH fills batches up to it, with as many frames as there are on average; a longer sample is a
        batch of its own. Of BATCH_SIZE rows of similar length the longest ones may come together.
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
        """The longest sample alone."""
        row = int(self.positions.argmax())
        return _load(int(self.positions[row]), int(self.frames[row]), 1)


def part(load: Load, pieces: int) -> Load:
    """The largest of so many pieces of a batch of like samples."""
    return Load(*(math.ceil(count / pieces) for count in (load.positions, load.frames, load.samples, load.texts)))


def _load(positions: int, frames: int, samples: int) -> Load:
    return Load(positions, frames, samples, texts=max(1, positions - frames))


def _bytes(column: pc.ChunkedArray) -> NDArray[np.int64]:
    found: NDArray[np.int64] = pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64)
    return found


def _tokens(settings: Settings, texts: list[list[str | None]]) -> NDArray[np.int64]:
    """(2, rows) tokens of texts and instructions, without the templates' own in the former."""
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
