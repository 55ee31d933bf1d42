"""Micro-batches of a step are computed together where they fit, with the result that they have one by one."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from job.config import settings as variables
from job.demo.base import build
from job.loss import layout
from job.loss.rows import Rows
from job.model.loading import load_model
from job.processes.ranks import ALONE
from job.train.passes import JOINED, Division, join, most_joined
from job.train.run_state import Start
from job.train.schedule import Planned
from job.train.spread import Spread
from job.train.step import Stepper
from tests.train.trained import objective_of

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=6)


@given(st.lists(LENGTHS, max_size=12), st.integers(0, 200))
def test_groups_keep_every_micro_batch_in_order_and_stay_within_the_bound(parts, most):
    """Only a micro-batch that is longer by itself may exceed the bound; and no two groups would fit together."""
    lengths = [length for part in parts for length in part]
    numbered, start = [], 0
    for part in parts:
        numbered.append(list(range(start, start + len(part))))
        start += len(part)
    groups = join(numbered, lengths.__getitem__, most)
    assert [index for group in groups for index in group] == list(range(len(parts)))
    sizes = [sum(sum(parts[index]) for index in group) for group in groups]
    assert all(len(group) == 1 or size <= most for group, size in zip(groups, sizes, strict=True))
    firsts = [sum(parts[group[0]]) for group in groups[1:]]
    assert all(size + first > most for size, first in zip(sizes, firsts, strict=False))


@given(st.lists(LENGTHS, min_size=1, max_size=8), st.integers(1, 3), st.sampled_from([0, 60, 400]))
def test_memory_that_runs_out_again_and_again_ends_at_single_samples(parts, world, joined):
    """Each time in smaller passes, in all processes alike, and every sample is in just one of them."""
    lengths = [length for part in parts for length in part]
    numbered, start = [], 0
    for part in parts:
        numbered.append(list(range(start, start + len(part))))
        start += len(part)
    shares = [numbered[rank::world] for rank in range(world)]
    division: Division | None = Division(joined)
    before = None
    while division is not None:
        passes = [
            one.rows
            for share in shares
            for one in division.passes([(n, rows, True) for n, rows in enumerate(share)], lengths.__getitem__)
        ]
        assert sorted(row for rows in passes for row in rows) == list(range(len(lengths)))
        # Micro-batches are joined by positions, and cut into pieces by samples.
        largest = max(sum(lengths[row] for row in rows) if division.joined else len(rows) for rows in passes)
        assert before is None or passes != before[0]
        assert before is None or division.joined == 0 != before[2] or largest <= before[1]
        before, division = (passes, largest, division.joined), division.smaller(shares, lengths.__getitem__)
    assert before is not None and all(len(rows) == 1 for rows in before[0])


def test_a_run_joins_on_a_gpu_alone_and_as_it_did_before_its_checkpoint():
    """Not where TOKENS_PER_BATCH bounds a pass, nor where all processes must take as many."""
    settings = variables.load({"TRAIN_JSONL": "x.jsonl"})
    bounded = variables.load({"TRAIN_JSONL": "x.jsonl", "TOKENS_PER_BATCH": "500"})
    assert most_joined(settings, "cuda", sharded=False) == JOINED
    assert most_joined(settings, "cpu", sharded=False) == 0
    assert most_joined(settings, "cuda", sharded=True) == 0
    assert most_joined(bounded, "cuda", sharded=False) == 0
    assert Start().division(JOINED) == Division(JOINED)
    assert Start(state={"joined": 1024, "pieces": 1}).division(JOINED) == Division(1024)
    assert Start(state={"joined": 1024, "pieces": 1}).division(0) == Division(0)
    assert Start(state={"pieces": 4}).division(JOINED) == Division(0, 4)  # written before micro-batches were joined


def rows_of(model: Any, frames: list[int]) -> Rows:
    """Samples of so many frames; a token a letter."""
    config, random = model.config, np.random.default_rng(0)
    codebooks = config.talker_config.num_code_groups
    table = pa.table(
        {
            "text": ["letters "[: 3 + count] for count in frames],
            "speaker": ["one"] * len(frames),
            "language": ["auto"] * len(frames),
            "instruct": pa.array([None] * len(frames), pa.string()),
            "codes": pa.array(
                [random.integers(0, 2048, (count, codebooks)).tolist() for count in frames],
                pa.list_(pa.list_(pa.int16(), codebooks)),
            ),
        }
    )
    voice = np.zeros(config.talker_config.hidden_size, np.float32)
    ids = layout.SpecialIds.from_config(config.to_dict())
    return Rows(
        table, ids, lambda texts: [list(map(ord, text)) for text in texts], {"one": voice}, text_layout="non_streaming"
    )


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """name -> (losses, frames, gradients, samples of each pass) of one step of four micro-batches."""
    sizes = {"hidden_size": 48, "heads": 4, "key_value_heads": 2, "head_dim": 12, "sub_talker_hidden_size": 32}
    base = build(tmp_path_factory.mktemp("base"), **sizes, sub_talker_layers=1, codebooks=4)
    model: Any = load_model(base, torch.device("cpu"), torch.float32).model
    objective, rows = objective_of(model), rows_of(model, [3, 5, 2, 4, 6, 3])
    accelerator = SimpleNamespace(device=torch.device("cpu"), autocast=nullcontext)
    training: Any = SimpleNamespace(train_rows=rows, codebooks=4, parameters=list(model.named_parameters()))
    settings = variables.load({"PRESET": "demo", "DEVICE": "cpu"})
    stop: Any = SimpleNamespace(name=None)
    planned = Planned(1, 0, [[0], [1, 2], [3], [4, 5]])
    found = {}
    for name, division, fits in (
        ("one by one", Division(), 9),
        ("together", Division(1000), 9),
        ("some together", Division(3 * rows.positions(4, 0)), 9),
        ("out of memory", Division(1000), 2),
    ):
        samples: list[int] = []

        def counted(_: Any, batch: tuple[Any], samples: list[int] = samples, fits: int = fits) -> None:
            samples.append(len(batch[0].speakers))
            if len(batch[0].speakers) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

        hook = objective.register_forward_pre_hook(counted)
        stepper = Stepper(settings, accelerator, objective, training, Spread(ALONE), stop, division)
        losses, frames = stepper.take(planned, stepper.build(planned))
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        hook.remove()
        found[name] = losses, frames, gradients, samples
    return found


@pytest.mark.parametrize("name", ["together", "some together", "out of memory"])
def test_losses_and_gradients_are_those_of_micro_batches_one_by_one(taken, name):
    """Computed in fewer passes, unless memory runs out."""
    losses, frames, gradients, sizes = taken[name]
    expected, counted, exact, _ = taken["one by one"]
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=0)
    assert frames == counted and gradients.keys() == exact.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, exact[key], rtol=1e-4, atol=1e-6, msg=key)
    assert taken["one by one"][3] == [1, 2, 1, 2]
    if name == "together":
        assert sizes == [6]
    elif name == "some together":
        assert 1 < len(sizes) < 4
    else:
        assert sizes[0] == 6 and max(sizes[-3:]) <= 2 and sum(sizes[1:]) >= 6
