"""Training sequences from prepared rows, and the order in which rows are trained.

The table's codes stay on disk, memory-mapped; text is tokenized once at the start, into flat arrays (`flat_columns`).
The order is a pure function of seed and epoch.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.core.threads import in_order
from job.train import layout
from job.train.batch import Batch, collate
from job.train.flat_columns import Codes, Companions, Tokens, numbered
from job.train.packing import pack_in_windows

A = TypeVar("A")
B = TypeVar("B")

#: Batches' worth of rows sorted by length together: enough for batches of similar lengths, few enough to keep the order
#: random.
SORTING_WINDOW = 50


@dataclass(frozen=True)
class Variant:
    """Layout of a row on one visit. `reference` is the row to clone from, or None."""

    streaming: bool
    named_language: bool
    reference: int | None = None


class Rows:
    """One split, whose rows can be laid out as sequences.

    A row takes about 40 bytes of memory plus 4 per token; its codes are read from disk in place.

    Args:
        table: columns text, speaker, language, instruct, codes (see `job.prepare`).
        ids: the model's special ids.
        tokenize: texts -> lists of ids, the base model's own tokenizer.
        speakers: speaker -> (D,) fp32 x-vector.
        text_layout: `non_streaming`, `streaming` or `mixed`.
        icl_fraction: share of visits on which a row is trained as in-context cloning from another clip of its speaker.
        seed: for these choices, and for which frames the sub-talker is trained on.

    Attributes:
        frames: (rows,) number of frames of each recording.
        speakers: (rows,) index of each row's speaker.
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
        self._icl_fraction, self._seed = icl_fraction, seed
        names, self.speakers = numbered(table["speaker"])
        self._vectors = [speakers[name] for name in names]
        names, self._language = numbered(table["language"])
        self._language_rows = [ids.language_row(name) for name in names]
        self._text = Tokens(tokenize, table["text"], layout.text_template)
        self._instruct = Tokens(tokenize, table["instruct"], layout.instruct_template)
        self._codes = Codes(table["codes"], ids.codebooks)
        self.frames = self._codes.lengths
        self._companions = Companions(self.speakers, self.frames, table["text"]) if icl_fraction else None

    def clones(self) -> bool:
        """Whether cloning is trained and any row has another row to clone from."""
        random = np.random.default_rng(0)
        companions = self._companions
        return companions is not None and any(companions.draw(row, random) is not None for row in range(len(self)))

    def __len__(self) -> int:
        return len(self.speakers)

    def variant(self, row: int, visit: int) -> Variant:
        """Choose the layout of `row` on its `visit`-th visit.

        `mixed` alternates the text layouts. A row in a language the model knows alternates between naming it and Auto,
        so that the voice works with both. Consecutive visits go through all combinations. Cloning is trained the way
        `generate_voice_clone` works by default, with the text beside the frames.
        """
        turn = row + visit
        mixed = self._layout == "mixed"
        streaming = turn % 2 == 0 if mixed else self._layout == "streaming"
        named = (turn // (2 if mixed else 1)) % 2 == 0 and self._language_row(row) is not None
        reference = self._reference(row, visit) if self._icl_fraction else None
        if reference is not None:
            streaming = True
        return Variant(streaming=streaming, named_language=named, reference=reference)

    def _reference(self, row: int, visit: int) -> int | None:
        assert self._companions is not None
        random = np.random.default_rng([self._seed, row, visit])
        return None if random.random() >= self._icl_fraction else self._companions.draw(row, random)

    def _language_row(self, row: int) -> int | None:
        known: int | None = self._language_rows[self._language[row]]
        return known

    def sequence(self, row: int, variant: Variant) -> layout.Sequence:
        """Lay out one row."""
        reference = None
        if variant.reference is not None:
            # `reference_template` tokenizes as `text_template` does, without the closing role tokens.
            text = self._text[variant.reference][: -layout.ROLE_TOKENS]
            reference = layout.Reference(text, self._codes[variant.reference])
        return layout.build(
            self._ids,
            self._text[row],
            self._codes[row],
            streaming=variant.streaming,
            language=self._language_row(row) if variant.named_language else None,
            instruct_ids=self._instruct[row] if self._instruct.lengths[row] else None,
            reference=reference,
        )

    def length(self, row: int) -> int:
        """Approximate length of a row in positions (ignoring its layout), by which batches are sorted."""
        return int(self.frames[row] + self._text.lengths[row])

    def positions(self, row: int, visit: int) -> int:
        """Exact length of `row`'s sequence on its `visit`-th visit, in positions."""
        variant, text = self.variant(row, visit), int(self._text.lengths[row])
        count = int(self.frames[row]) + layout.positions_around(
            text, streaming=variant.streaming, named_language=variant.named_language
        )
        if variant.reference is not None:
            count += int(self.frames[variant.reference])
        return count + int(self._instruct.lengths[row])

    def batch(self, rows: list[int], visit: int, fraction: float = 1.0) -> Batch:
        """Build one packed row from the samples `rows`, laid out as on their `visit`-th visit.

        Args:
            fraction: share of the frames that the sub-talker is trained on.
        """
        sequences = [self.sequence(row, self.variant(row, visit)) for row in rows]
        vectors = [self._vectors[self.speakers[row]] for row in rows]
        phases = [float(np.random.default_rng([self._seed, row]).random()) for row in rows]
        return collate(sequences, vectors, packed=True, phases=phases).turn(fraction, visit)


class Order(Sequence[list[int]]):
    """Sequence of batches of row numbers, at 8 bytes per row: lists are created on access."""

    def __init__(self, batches: Iterable[Sequence[int]], shuffle: Callable[[int], NDArray[np.int64]]) -> None:
        lengths: list[int] = []

        def rows() -> Iterator[int]:
            for batch in batches:
                lengths.append(len(batch))
                yield from batch

        self._rows = np.fromiter(rows(), dtype=np.int64)
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._shuffled = shuffle(len(lengths))

    def __len__(self) -> int:
        return len(self._shuffled)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...

    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...

    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        batch = self._shuffled[index]
        end = self._ends[batch]
        found: list[int] = self._rows[end - self._lengths[batch] : end].tolist()
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


def admitted(rows: Rows, curriculum: str | None, progress: float) -> NDArray[np.int64]:
    """Select the rows that an epoch trains on under a curriculum.

    Args:
        rows: all rows.
        curriculum: `length` (short ones first), `source` (in the order of the data), or None for all rows.
        progress: share of the run completed at the epoch's start: below 1/4 the first third of the rows is used, below
            1/2 two thirds, then all.
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
) -> Order:
    """Order one epoch: shuffled batches of row numbers, over all rows or `only` some.

    Rows are shuffled and then, window by window, either packed into batches of at most `tokens_per_batch` positions (in
    this epoch's layouts), or sorted by length and split into batches of `batch_size` rows. Then batches are shuffled.
    """
    random = np.random.default_rng([seed, epoch])
    order = np.asarray(random.permutation(len(rows) if only is None else only), dtype=np.int64)
    if tokens_per_batch is not None:
        lengths = np.zeros(len(rows), dtype=np.int64)
        for row in order:
            lengths[row] = rows.positions(int(row), epoch)
        return Order(pack_in_windows(array("q", order.tobytes()), lengths, tokens_per_batch), random.permutation)
    return Order(_by_length(order, rows, batch_size), random.permutation)


def _by_length(order: NDArray[np.int64], rows: Rows, batch_size: int) -> Iterator[list[int]]:
    """Yield batches of rows of similar length, so that steps need similar time and memory."""
    window = SORTING_WINDOW * batch_size
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window].tolist(), key=rows.length)
        yield from (part[i : i + batch_size] for i in range(0, len(part), batch_size))


def ahead(inputs: Iterable[A], build: Callable[[A], B]) -> Iterator[tuple[A, B]]:
    """Yield (input, build(input)) in order; a thread prefetches up to two while the caller works on the last one."""
    yield from in_order(inputs, lambda one: (one, build(one)), workers=1, name="batches")
