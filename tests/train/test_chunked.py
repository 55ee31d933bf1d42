"""Gradients by chunks take the memory of two sets of them, however many chunks there are."""

from __future__ import annotations

import pytest
import torch

from job.loss.chunked import summed
from tests.support.memory import Live


@pytest.mark.parametrize("through_rows", [True, False], ids=["rows too", "weights only"])
def test_more_chunks_take_no_more_sets_of_gradients(through_rows):
    """What is summed and what is being computed; a third set would be as large as the sub-talker in fp32."""
    weight = torch.randn(300, 400, requires_grad=True)
    rows, targets = torch.randn(20, 400, requires_grad=through_rows), torch.zeros(20)

    def peak(chunk):
        with (live := Live([weight, rows, targets])):
            summed(lambda part, _: (part @ weight.T).square().sum(), rows, targets, [weight], chunk)
        return live.peak / (weight.numel() * 4)

    one, *more = [peak(chunk) for chunk in (20, 10, 7, 5, 2, 1)]
    assert 1 <= one < 1.5
    assert all(2 <= found < 2.5 for found in more), more


def test_a_weight_that_only_some_chunks_use_gets_their_gradients():
    """In any order, with a chunk before, between and after that does not."""
    weights = [torch.randn(3, requires_grad=True) for _ in range(3)]
    rows, targets = torch.arange(1.0, 10.0)[:, None], torch.tensor([0, 1, 0, 2, 1, 0, 0, 2, 2])

    def loss_of(part, which):
        return sum((row * weights[int(number)]).square().sum() for row, number in zip(part, which, strict=True))

    summed(loss_of, rows, targets, weights, 1).backward()
    for number, weight in enumerate(weights):
        expected = 2 * weight.detach() * rows[targets == number].square().sum()
        torch.testing.assert_close(weight.grad, expected)
