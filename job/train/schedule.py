"""Schedule of a run: the number of steps, when to evaluate, and the rows of each step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from job.config.settings import Settings
from job.loss.rows import Rows
from job.train.order import Order, admitted, epoch_order

#: A micro-batch, a part of a step: numbers of the rows that are computed together.
Part = list[int]

#: Most evaluations in a run, unless EVAL_STEPS is set.
MOST_EVALUATIONS = 20


class Planned(NamedTuple):
    """A planned step. Steps are numbered from 1, epochs from 0."""

    step: int
    epoch: int
    parts: list[Part]


class Schedule:
    """The planned steps: a pure function of settings and data, so that a resumed run continues with the same rows.

    Attributes:
        per_epoch: steps per epoch, as in the first one: with TOKENS_PER_BATCH, epochs may differ by one or two.
        steps: steps of the whole run.
        eval_every: number of steps between evaluations.
    """

    def __init__(self, settings: Settings, rows: Rows, parts: int) -> None:
        self._settings = settings
        self._rows = rows
        self.parts = parts
        self.per_epoch = math.ceil(len(self._order(0, 1.0)) / parts)
        self.steps = settings.max_steps or settings.num_epochs * self.per_epoch
        self.eval_every = settings.eval_steps or max(self.per_epoch, math.ceil(self.steps / MOST_EVALUATIONS))

    def after(self, done: int) -> Iterator[Planned]:
        """Yield the steps after step `done`, up to the last."""
        step, epoch = 0, 0
        while step < self.steps:
            order = self._order(epoch, step / self.steps)
            for start in range(0, len(order), self.parts):
                if step == self.steps:
                    return
                step += 1
                if step > done:
                    yield Planned(step, epoch, order[start : start + self.parts])
            epoch += 1

    def _order(self, epoch: int, over: float) -> Order:
        """Order an epoch's batches; `over` is the share of the run completed when it begins."""
        settings = self._settings
        return epoch_order(
            self._rows,
            epoch=epoch,
            seed=settings.seed,
            batch_size=settings.batch_size,
            tokens_per_batch=settings.tokens_per_batch,
            only=admitted(self._rows, settings.curriculum, over),
        )
