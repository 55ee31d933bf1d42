"""Codebook embedding lookup shared by the talker and the sub-talker.

The talker reads the sum of a frame's embeddings, the sub-talker the embeddings themselves, both for the same codes and
tables. A lookup's gradient is as large as its table: with plain autograd each table would get two, and the first one a
third for the special ids, each zero-filled, stored and summed. Here each table gets one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F


def look_up(
    tables: Sequence[torch.Tensor], codes: torch.Tensor, special: torch.Tensor, fed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Look up the embeddings of frames and special ids.

    Args:
        tables: one per codebook, (V, D); the first one also has rows for the special ids.
        codes: (N, codebooks) of all frames.
        special: (C,) rows of the first table.
        fed: (n,) the frames that the sub-talker reads.

    Returns:
        the sum of each frame's embeddings (N, D); the special ids' embeddings (C, D); and for the frames `fed` the
        embeddings (n, codebooks - 1, D) of all codebooks but the last, for which the sub-talker has no position.
    """
    return _Lookup.apply(codes, special, fed, *tables)  # type: ignore[no-any-return,no-untyped-call]


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, codes: torch.Tensor, special: torch.Tensor, fed: torch.Tensor, *tables: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(codes, special, fed)
        ctx.sizes = [len(table) for table in tables]
        total = F.embedding(codes[:, 0], tables[0])
        for table, of_codebook in zip(tables[1:], codes.unbind(1)[1:], strict=True):
            total += F.embedding(of_codebook, table)  # one by one: all codebooks together would take gigabytes
        read = total.new_empty(len(fed), len(tables) - 1, total.shape[1])
        for codebook, of_codebook in enumerate(codes[fed].unbind(1)[:-1]):
            read[:, codebook] = F.embedding(of_codebook, tables[codebook])
        return total, F.embedding(special, tables[0]), read

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        by_total, by_special, by_read = gradients
        codes, special, fed = ctx.saved_tensors
        # Concatenated: the sum's gradients, which go to every codebook, those of the sub-talker's inputs, and those of
        # the special ids. `embedding`'s accumulation is faster and more reproducible than indexing's.
        both, frames = len(codes) + len(fed), len(codes)
        by_rows = by_total.new_empty(both + len(special), by_total.shape[1])
        by_rows[:frames] = by_total
        found: list[torch.Tensor | None] = []
        for codebook, size in enumerate(ctx.sizes):
            if not ctx.needs_input_grad[3 + codebook]:
                found.append(None)
                continue
            rows, end = codes[:, codebook], frames
            if codebook < by_read.shape[1]:
                rows, end = torch.cat([rows, rows[fed]]), both
                by_rows[frames:both] = by_read[:, codebook]
            if codebook == 0:
                rows, by_rows[end : end + len(special)] = torch.cat([rows, special]), by_special
                end += len(special)
            found.append(torch.ops.aten.embedding_dense_backward(by_rows[:end], rows, size, -1, False))
        return None, None, None, *found
