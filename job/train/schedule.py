"""The steps of a run: how many, how often it is evaluated, and which rows each step is over."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from job.config.settings import Settings
from job.train.data import Order, Rows, admitted, epoch_order

#: A part of a step: numbers of the rows that are computed together.
Part = list[int]

#: Evaluations in a run unless EVAL_STEPS says otherwise.
MOST_EVALUATIONS = 20


class Planned(NamedTuple):
    """A step that is to be taken, by its number from 1, in an epoch from 0."""

    step: int
    epoch: int
    parts: list[Part]


class Schedule:
    """What comes is a pure function of settings and data, so that a resumed run sees what it would have seen.

    Attributes:
        per_epoch: steps of an epoch, by the first one's length: batches by TOKENS_PER_BATCH may differ by one or two.
        steps: of the whole run.
        eval_every: steps from one evaluation to the next.
    """

    def __init__(self, settings: Settings, rows: Rows, parts: int) -> None:
        self._settings = settings
        self._rows = rows
        self.parts = parts
        self.per_epoch = math.ceil(len(self._order(0, 1.0)) / parts)
        self.steps = settings.max_steps or settings.num_epochs * self.per_epoch
        self.eval_every = settings.eval_steps or max(self.per_epoch, math.ceil(self.steps / MOST_EVALUATIONS))

    def after(self, done: int) -> Iterator[Planned]:
        """The steps after step `done`, to the last."""
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
        """An epoch's batches; `over` is the share of the run that is over when it begins."""
        settings = self._settings
        return epoch_order(
            self._rows,
            epoch=epoch,
            seed=settings.seed,
            batch_size=settings.batch_size,
            tokens_per_batch=settings.tokens_per_batch,
            only=admitted(self._rows, settings.curriculum, over),
        )
