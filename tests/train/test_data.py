"""The order of training: every row once an epoch, the same for the same seed, whatever the batch size."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from job.train.data import epoch_order


class Lengths:
    """Rows known only by their length."""

    def __init__(self, lengths):
        self._lengths = lengths

    def __len__(self):
        return len(self._lengths)

    def length(self, row):
        return self._lengths[row]


lengths = st.lists(st.integers(1, 400), min_size=1, max_size=300)


@settings(deadline=None)
@given(lengths, st.integers(1, 33), st.integers(0, 2**31), st.integers(0, 50))
def test_every_row_once(rows, batch_size, seed, epoch):
    """An epoch visits every row exactly once, in batches of at most BATCH_SIZE."""
    order = epoch_order(Lengths(rows), epoch=epoch, seed=seed, batch_size=batch_size)
    assert sorted(row for batch in order for row in batch) == list(range(len(rows)))
    assert all(1 <= len(batch) <= batch_size for batch in order)
    assert order == epoch_order(Lengths(rows), epoch=epoch, seed=seed, batch_size=batch_size)


@settings(deadline=None)
@given(lengths, st.integers(50, 900))
def test_a_budget_of_positions_is_kept(rows, tokens):
    """TOKENS_PER_BATCH bounds the padded size of a batch (one row alone may be larger)."""
    order = epoch_order(Lengths(rows), epoch=0, seed=1, batch_size=4, tokens_per_batch=tokens)
    assert sorted(row for batch in order for row in batch) == list(range(len(rows)))
    for batch in order:
        assert len(batch) == 1 or len(batch) * max(rows[row] for row in batch) <= tokens


def test_epochs_differ():
    """Another epoch is another order."""
    rows = Lengths([10] * 64)
    first, second = (epoch_order(rows, epoch=e, seed=7, batch_size=4) for e in (0, 1))
    assert first != second


def test_sorting_cuts_padding():
    """Batches hold clips of similar length: far less padding than a random order."""
    random = np.random.default_rng(0)
    rows = [int(n) for n in random.lognormal(4, 0.8, 2000)]

    def padded(order):
        return sum(len(b) * max(rows[r] for r in b) for b in order)

    ours = padded(epoch_order(Lengths(rows), epoch=0, seed=0, batch_size=8))
    shuffled = random.permutation(len(rows)).tolist()
    naive = padded([shuffled[i : i + 8] for i in range(0, len(rows), 8)])
    assert ours < 0.65 * naive
    assert ours < 1.1 * sum(rows)
