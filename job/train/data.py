"""Prepared rows as sequences, and the order they are trained in.

The table stays memory-mapped; text is tokenized once at the start. The order is a pure function of seed and epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.train import layout
from job.train.batch import Batch, collate
from job.train.packing import pack_in_windows

A = TypeVar("A")
B = TypeVar("B")

#: Batches that are sorted by length together: enough to make them alike, few enough to keep the order random.
SORTING_WINDOW = 50
#: Frames of the longest clip that is cloned from in training (about 15 s at 12.5 frames a second).
LONGEST_REFERENCE = 188


@dataclass(frozen=True)
class Variant:
    """How a row is laid out on one visit. `reference` is the row that is cloned from, None for none."""

    streaming: bool
    named_language: bool
    reference: int | None = None


class Rows:
    """One split, ready to be laid out.

    Args:
        table: columns text, speaker, language, instruct, codes (see `job.prepare`).
        ids: the model's special ids.
        tokenize: texts -> lists of ids, the base model's own tokenizer.
        speakers: speaker -> (D,) fp32 x-vector.
        text_layout: `non_streaming`, `streaming` or `mixed`.
        icl_fraction: share of visits on which a row is trained as cloning from another clip of its speaker.
        seed: of these choices.
    """

    def __init__(
        self,
        table: pa.Table,
        ids: layout.SpecialIds,
        tokenize: Any,
        speakers: dict[str, NDArray[np.float32]],
        *,
        text_layout: str,
        icl_fraction: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._ids = ids
        self._layout = text_layout
        self._speakers = speakers
        self._icl_fraction, self._seed = icl_fraction, seed
        self._speaker = table["speaker"].to_pylist()
        self._language = [ids.language_row(name) for name in table["language"].to_pylist()]
        texts = table["text"].to_pylist()
        self._text = [np.asarray(t) for t in tokenize([layout.text_template(t) for t in texts])]
        instructs = table["instruct"].to_pylist()
        said = [layout.instruct_template(t) for t in instructs if t]
        tokens = iter(tokenize(said))
        self._instruct = [np.asarray(next(tokens)) if t else None for t in instructs]
        codes = table["codes"].combine_chunks()
        self._offsets = np.asarray(codes.offsets)
        self._codes = np.asarray(codes.values.flatten()).reshape(-1, ids.books)
        self.frames = np.diff(self._offsets)
        self._companions = self._by_speaker(texts) if icl_fraction else {}

    def _by_speaker(self, texts: list[str]) -> dict[str, list[tuple[int, str]]]:
        """Rows that can be cloned from, with their texts, by speaker: none of them too long for a prompt."""
        found: dict[str, list[tuple[int, str]]] = {}
        for row, (speaker, text) in enumerate(zip(self._speaker, texts, strict=True)):
            if self.frames[row] <= LONGEST_REFERENCE:
                found.setdefault(speaker, []).append((row, text))
        return found

    def __len__(self) -> int:
        return len(self._speaker)

    def variant(self, row: int, visit: int) -> Variant:
        """How `row` is laid out on its `visit`-th time.

        `mixed` alternates the text layouts. A row whose language the model knows alternates naming it and Auto, so that
        the voice speaks both ways. Consecutive visits go through all combinations. Cloning is trained as
        `generate_voice_clone` does it by default, with the text beside the frames.
        """
        turn = row + visit
        mixed = self._layout == "mixed"
        streaming = turn % 2 == 0 if mixed else self._layout == "streaming"
        named = (turn // (2 if mixed else 1)) % 2 == 0 and self._language[row] is not None
        reference = self._reference(row, visit) if self._icl_fraction else None
        if reference is not None:
            streaming = True
        return Variant(streaming=streaming, named_language=named, reference=reference)

    def _reference(self, row: int, visit: int) -> int | None:
        random = np.random.default_rng([self._seed, row, visit])
        if random.random() >= self._icl_fraction:
            return None
        companions = self._companions.get(self._speaker[row], [])
        own = next((text for other, text in companions if other == row), None)
        others = [other for other, text in companions if other != row and text != own]  # a changed copy says the same
        return others[random.integers(len(others))] if others else None

    def sequence(self, row: int, variant: Variant) -> layout.Sequence:
        """Lay out one row."""
        reference = None
        if variant.reference is not None:
            # The tokens of `reference_template` are those of `text_template` without the last role.
            text = self._text[variant.reference][: -layout.ROLE_TOKENS]
            reference = layout.Reference(text, self._frames_of(variant.reference))
        return layout.build(
            self._ids,
            self._text[row],
            self._frames_of(row),
            streaming=variant.streaming,
            language=self._language[row] if variant.named_language else None,
            instruct_ids=self._instruct[row],
            reference=reference,
        )

    def _frames_of(self, row: int) -> NDArray[np.int16]:
        return self._codes[self._offsets[row] : self._offsets[row + 1]]

    def length(self, row: int) -> int:
        """Positions of a row, give or take its layout: what batches are sorted by."""
        return int(self.frames[row]) + len(self._text[row])

    def positions(self, row: int, visit: int) -> int:
        """Positions of `row` on its `visit`-th time, exactly: the length of its sequence."""
        variant, text, instruct = self.variant(row, visit), len(self._text[row]), self._instruct[row]
        count = int(self.frames[row]) + layout.positions_around(
            text, streaming=variant.streaming, named_language=variant.named_language
        )
        if variant.reference is not None:
            count += int(self.frames[variant.reference])
        return count + (0 if instruct is None else len(instruct))

    def batch(self, rows: list[int], visit: int) -> Batch:
        """One packed row of the samples `rows` as they are on their `visit`-th time."""
        sequences = [self.sequence(row, self.variant(row, visit)) for row in rows]
        return collate(sequences, [self._speakers[self._speaker[row]] for row in rows], packed=True)


def admitted(rows: Rows, curriculum: str | None, progress: float) -> NDArray[np.int64]:
    """Rows that an epoch trains on under a curriculum.

    Args:
        rows: all of them.
        curriculum: `length` (short ones first), `source` (those that stand first in the data), or None for all.
        progress: share of the run that is over at the epoch's start: below 1/4 the first third of the rows is trained
            on, below 1/2 two thirds, then all.
    """
    if curriculum is None or progress >= 0.5:
        return np.arange(len(rows))
    order = np.arange(len(rows))
    if curriculum == "length":
        order = np.argsort([rows.length(row) for row in range(len(rows))], kind="stable")
    share = 1 / 3 if progress < 0.25 else 2 / 3
    return np.sort(order[: max(1, round(share * len(rows)))])


def epoch_order(
    rows: Rows,
    *,
    epoch: int,
    seed: int,
    batch_size: int,
    tokens_per_batch: int | None = None,
    only: NDArray[np.int64] | None = None,
) -> list[list[int]]:
    """Batches of row numbers for one epoch, over all rows or `only` some.

    Rows are shuffled and, in windows, either packed into batches of at most `tokens_per_batch` positions as they are
    laid out in this epoch, or sorted by length and cut into batches of `batch_size` rows. The batches are shuffled.
    """
    random = np.random.default_rng([seed, epoch])
    order = [int(row) for row in random.permutation(len(rows) if only is None else only)]
    if tokens_per_batch is not None:
        lengths = np.zeros(len(rows), dtype=np.int64)
        lengths[order] = [rows.positions(row, epoch) for row in order]
        batches = list(pack_in_windows(order, lengths, tokens_per_batch))
    else:
        batches = list(_by_length(order, rows, batch_size))
    return [batches[i] for i in random.permutation(len(batches))]


def _by_length(order: list[int], rows: Rows, batch_size: int) -> Iterator[list[int]]:
    """Batches of rows of similar length, so that steps are alike in what they take."""
    window = SORTING_WINDOW * batch_size
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window], key=rows.length)
        yield from (part[i : i + batch_size] for i in range(0, len(part), batch_size))


def ahead(inputs: Iterable[A], build: Callable[[A], B], depth: int = 2) -> Iterator[tuple[A, B]]:
    """Yield (input, build(input)) in order, with up to `depth` built in a thread while the caller works on the last.

    `build` must not depend on what the caller does meanwhile. What it raises is raised here, in its turn.
    """
    from collections import deque
    from concurrent.futures import Future, ThreadPoolExecutor

    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    waiting: deque[tuple[A, Future[B]]] = deque()
    try:
        for one in inputs:
            waiting.append((one, pool.submit(build, one)))
            if len(waiting) > depth:
                first, built = waiting.popleft()
                yield first, built.result()
        while waiting:
            first, built = waiting.popleft()
            yield first, built.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
