"""Prepared rows as sequences, and the order they are trained in.

The table stays memory-mapped; text is tokenized once at the start. The order is a pure function of seed and epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.train import layout
from job.train.batch import Batch, collate

#: Batches that are sorted by length together: enough to cut padding, few enough to keep the order random.
SORTING_WINDOW = 50


@dataclass(frozen=True)
class Variant:
    """How a row is laid out on one visit."""

    streaming: bool
    named_language: bool


class Rows:
    """One split, ready to be laid out.

    Args:
        table: columns text, speaker, language, instruct, codes (see `job.prepare`).
        ids: the model's special ids.
        tokenize: texts -> lists of ids, the base model's own tokenizer.
        speakers: speaker -> (D,) fp32 x-vector.
        text_layout: `non_streaming`, `streaming` or `mixed`.
    """

    def __init__(
        self,
        table: pa.Table,
        ids: layout.SpecialIds,
        tokenize: Any,
        speakers: dict[str, NDArray[np.float32]],
        text_layout: str,
    ) -> None:
        self._ids = ids
        self._layout = text_layout
        self._speakers = speakers
        self._speaker = table["speaker"].to_pylist()
        self._language = [ids.language_row(name) for name in table["language"].to_pylist()]
        self._text = [np.asarray(t) for t in tokenize([layout.text_template(t) for t in table["text"].to_pylist()])]
        instructs = table["instruct"].to_pylist()
        said = [layout.instruct_template(t) for t in instructs if t]
        tokens = iter(tokenize(said))
        self._instruct = [np.asarray(next(tokens)) if t else None for t in instructs]
        codes = table["codes"].combine_chunks()
        self._offsets = np.asarray(codes.offsets)
        self._codes = np.asarray(codes.values.flatten()).reshape(-1, ids.books)
        self.frames = np.diff(self._offsets)

    def __len__(self) -> int:
        return len(self._speaker)

    def variant(self, row: int, visit: int) -> Variant:
        """How `row` is laid out on its `visit`-th time.

        `mixed` alternates the text layouts. A row whose language the model knows alternates naming it and Auto, so that
        the voice speaks both ways. Consecutive visits go through all combinations.
        """
        turn = row + visit
        mixed = self._layout == "mixed"
        streaming = turn % 2 == 0 if mixed else self._layout == "streaming"
        named = (turn // (2 if mixed else 1)) % 2 == 0
        return Variant(streaming=streaming, named_language=named and self._language[row] is not None)

    def sequence(self, row: int, variant: Variant) -> layout.Sequence:
        """Lay out one row."""
        return layout.build(
            self._ids,
            self._text[row],
            self._codes[self._offsets[row] : self._offsets[row + 1]],
            streaming=variant.streaming,
            language=self._language[row] if variant.named_language else None,
            instruct_ids=self._instruct[row],
        )

    def length(self, row: int) -> int:
        """Positions of a row, give or take its layout: what batches are sorted by."""
        return int(self.frames[row]) + len(self._text[row])

    def batch(self, rows: list[int], visit: int) -> Batch:
        """Collate `rows` as they are on their `visit`-th time."""
        sequences = [self.sequence(row, self.variant(row, visit)) for row in rows]
        return collate(sequences, [self._speakers[self._speaker[row]] for row in rows])


def epoch_order(
    rows: Rows, *, epoch: int, seed: int, batch_size: int, tokens_per_batch: int | None = None
) -> list[list[int]]:
    """Batches of row numbers for one epoch.

    Rows are shuffled, sorted by length within windows of `SORTING_WINDOW` batches, cut into batches of `batch_size`
    rows (or of at most `tokens_per_batch` padded positions), and the batches shuffled.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(rows))
    batches: list[list[int]] = []
    window = SORTING_WINDOW * batch_size
    for start in range(0, len(order), window):
        part = sorted((int(r) for r in order[start : start + window]), key=rows.length)
        batches += list(_cut(part, rows, batch_size, tokens_per_batch))
    return [batches[i] for i in random.permutation(len(batches))]


def _cut(part: list[int], rows: Rows, batch_size: int, tokens: int | None) -> Iterator[list[int]]:
    """Cut rows that are sorted by length into batches."""
    batch: list[int] = []
    for row in part:
        full = len(batch) == batch_size if tokens is None else (len(batch) + 1) * rows.length(row) > tokens
        if batch and full:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
