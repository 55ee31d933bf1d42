"""Prepared rows as training sequences and batches, in the text layout that each visit of a row has.

The table's codes stay on disk, memory-mapped; text is tokenized once at the start, into flat arrays (`flat_columns`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.loss import layout
from job.loss.batch import Batch, collate
from job.loss.flat_columns import Codes, Companions, Tokens, numbered


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
