"""The order of training: every row once an epoch, the same for the same seed, whatever the batch size; and batches
that are ready when they are needed."""

from __future__ import annotations

import collections
import gc
import itertools
import threading
import time
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.loss import flat_columns
from job.loss.layout import SpecialIds, instruct_template, text_template
from job.loss.rows import Rows, Variant
from job.train.order import ahead, epoch_order


class Lengths:
    """Rows known only by their length."""

    def __init__(self, lengths):
        self._lengths = lengths

    def __len__(self):
        return len(self._lengths)

    def length(self, row):
        return self._lengths[row]

    def positions(self, row, visit):
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
    """TOKENS_PER_BATCH bounds the positions of a batch (one row alone may be larger), and it is the seed's order."""
    order = epoch_order(Lengths(rows), epoch=0, seed=1, batch_size=4, tokens_per_batch=tokens)
    assert sorted(row for batch in order for row in batch) == list(range(len(rows)))
    for batch in order:
        assert len(batch) == 1 or sum(rows[row] for row in batch) <= tokens
    assert order == epoch_order(Lengths(rows), epoch=0, seed=1, batch_size=4, tokens_per_batch=tokens)


def test_only_some_rows_are_packed():
    """A curriculum's rows, and no others, share the budget."""
    order = epoch_order(
        Lengths([10] * 30), epoch=0, seed=1, batch_size=4, tokens_per_batch=40, only=np.arange(5, 25, 2)
    )
    assert sorted(row for batch in order for row in batch) == list(range(5, 25, 2))
    assert all(len(batch) <= 4 for batch in order)


def test_epochs_differ():
    """Another epoch is another order."""
    rows = Lengths([10] * 64)
    first, second = (epoch_order(rows, epoch=e, seed=7, batch_size=4) for e in (0, 1))
    assert first != second


def test_steps_are_alike():
    """Batches hold clips of similar length, far nearer to one another than a random order's."""
    random = np.random.default_rng(0)
    rows = [int(n) for n in random.lognormal(4, 0.8, 2000)]

    def padded(order):
        return sum(len(b) * max(rows[r] for r in b) for b in order)

    ours = padded(epoch_order(Lengths(rows), epoch=0, seed=0, batch_size=8))
    shuffled = random.permutation(len(rows)).tolist()
    naive = padded([shuffled[i : i + 8] for i in range(0, len(rows), 8)])
    assert ours < 0.65 * naive
    assert ours < 1.1 * sum(rows)


KINDS = [pa.field(name, pa.string()) for name in ("text", "speaker", "language", "instruct")]
SCHEMA = pa.schema([*KINDS, pa.field("codes", pa.list_(pa.list_(pa.int16(), 4)))])


def rows_of(table, **values):
    """`Rows` with a tokenizer of one id a letter and codebooks of four."""
    ids = SpecialIds(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, languages={"english": 2050}, codebooks=4)
    vectors = {name: np.full(8, n, dtype=np.float32) for n, name in enumerate(("one", "two"))}
    tokenize = lambda texts: [[100 + ord(c) % 50 for c in text] for text in texts]  # noqa: E731
    return Rows(table, ids, tokenize, vectors, **{"text_layout": "mixed", **values})


@pytest.mark.parametrize("text_layout", ["non_streaming", "streaming", "mixed"])
@pytest.mark.parametrize("icl_fraction", [0.0, 1.0])
def test_positions_are_those_of_the_sequence(text_layout, icl_fraction):
    """What batches are packed by is exactly what is laid out, and a batch has no padding."""
    random = np.random.default_rng(0)
    rows = [
        {
            "text": "x" * int(random.integers(1, 40)),
            "speaker": "one",
            "language": language,
            "instruct": instruct,
            "codes": random.integers(0, 2048, (int(random.integers(1, 30)), 4)).tolist(),
        }
        for language, instruct in itertools.product(("auto", "english"), (None, "Slowly."), repeat=1)
        for _ in range(4)
    ]
    data = rows_of(pa.Table.from_pylist(rows, schema=SCHEMA), text_layout=text_layout, icl_fraction=icl_fraction)
    for visit in range(5):
        for row in range(len(data)):
            assert data.positions(row, visit) == len(data.sequence(row, data.variant(row, visit)))
        batch = data.batch(list(range(len(data))), visit)
        assert batch.text_index.shape == (1, sum(data.positions(row, visit) for row in range(len(data))))
        assert bool(batch.attention_mask.all())


def many(count, seed=0, texts=10_000, speakers=("one", "two")):
    """A table of short rows."""
    random = np.random.default_rng(seed)
    return pa.Table.from_pylist(
        [
            {
                "text": f"text {random.integers(texts)}",
                "speaker": str(random.choice(speakers)),
                "language": str(random.choice(("auto", "english", "klingon"))),
                "instruct": str(random.choice(("", "Slowly."))) or None,
                "codes": random.integers(0, 2048, (int(random.integers(1, 6)), 4)).tolist(),
            }
            for _ in range(count)
        ],
        schema=SCHEMA,
    )


def test_rows_are_the_same_however_the_table_is_cut(monkeypatch):
    """Mapped tables come in chunks, and slices of tables keep what is before them."""
    monkeypatch.setattr(flat_columns, "TOKENIZED_TOGETHER", 7)
    whole = many(60)
    table = pa.concat_tables([whole.slice(0, 13), whole.slice(13, 1), whole.slice(14, 0), whole.slice(14, 46)])
    one, other = (rows_of(t, icl_fraction=0.5) for t in (whole.combine_chunks(), table))
    assert table["codes"].num_chunks > 2
    for row, values in enumerate(whole.to_pylist()):
        assert one.frames[row] == other.frames[row] == len(values["codes"])
        for visit in range(4):
            variant = one.variant(row, visit)
            assert variant == other.variant(row, visit)
            first, second = one.sequence(row, variant), other.sequence(row, variant)
            np.testing.assert_array_equal(first.frames, second.frames)
            np.testing.assert_array_equal(first.text_ids, second.text_ids)
        plain = Variant(streaming=False, named_language=False)
        np.testing.assert_array_equal(other.sequence(row, plain).frames, values["codes"])


def test_a_row_is_cloned_from_each_other_clip_of_its_speaker_that_says_something_else():
    """Each as likely as another, never from a copy of itself, never from one too long for a prompt."""
    texts = ["a", "b", "b", "c", "c", "c", "d", "long", "e"]
    rows = [
        {"text": text, "speaker": "two" if text == "e" else "one", "language": "auto", "codes": [[1] * 4] * frames}
        for text, frames in zip(texts, [3] * 7 + [500, 3], strict=True)
    ]
    data = rows_of(pa.Table.from_pylist(rows, schema=SCHEMA), icl_fraction=1.0)
    for row, text in enumerate(texts):
        drawn = collections.Counter(data.variant(row, visit).reference for visit in range(600))
        allowed = [n for n, other in enumerate(texts[:7]) if other != text] if text != "e" else []
        assert sorted(drawn) == (allowed or [None]), text
        assert min(drawn.values()) > 0.5 * 600 / max(1, len(allowed))


def test_an_order_is_a_sequence_of_batches():
    """It can be sliced, gone through twice and compared, like the lists that it makes."""
    order = epoch_order(Lengths(list(range(1, 30))), epoch=0, seed=1, batch_size=4)
    listed = list(order)
    assert order[2:5] == listed[2:5] and order[-1] == listed[-1]
    assert list(order) == listed == order
    assert all(type(row) is int for batch in listed for row in batch)
    with pytest.raises(IndexError):
        order[len(order)]


def test_what_is_remembered_of_a_row_is_small():
    """A million rows must fit beside a model: what stays in memory is a few numbers and the ids of the text."""
    table = many(4000)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    data = rows_of(table, icl_fraction=0.5)
    order = epoch_order(data, epoch=0, seed=0, batch_size=8)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(order) == 500
    letters = sum(len(text_template(text)) for text in table["text"].to_pylist())
    letters += sum(len(instruct_template(text)) for text in table["instruct"].to_pylist() if text)
    assert taken < 4 * letters + 100 * 4000


def test_a_slow_disk_is_not_waited_for():
    """Batches are built while a step computes: a build as long as a step is hidden behind it, but for the first."""
    seconds, waited = 0.03, 0.0

    def build(number):
        time.sleep(seconds)
        return number * number

    steps, clock = 12, time.perf_counter()
    for number, square in ahead(range(steps), build):
        waited += time.perf_counter() - clock
        assert square == number * number
        time.sleep(1.5 * seconds)  # the step
        clock = time.perf_counter()
    assert waited < 0.5 * steps * seconds


def test_what_fails_ahead_fails_in_its_turn_and_leaves_no_thread():
    """An error while building comes out where its batch would have, and stopping early ends the thread."""
    reached = []
    with pytest.raises(ZeroDivisionError):
        for number, _ in ahead([4, 2, 0, 1], lambda n: 1 / n):
            reached.append(number)
    assert reached == [4, 2]
    running = ahead(itertools.count(), lambda n: n)
    assert next(running) == (0, 0)
    running.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]
