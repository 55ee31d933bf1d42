"""Select the encoded rows to use: up to MAX_HOURS and MAX_EVAL_SAMPLES, except rows that comparison shows are wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from job.core import console
from job.dataset.prepared import SPLITS
from job.prepare.conflicts import Recordings
from job.prepare.copies import Prints
from job.prepare.flawed import Sounds
from job.prepare.leaving_out import LeftOut
from job.prepare.mismatch import Lengths
from job.prepare.repeated import Texts
from job.prepare.tongues import Tongues
from job.prepare.work import STAGE, Work
from job.prepare.wrong_words import Heard, Place, Words


class Admitted:
    """The rows to use from a run's shards, once all required shards are encoded.

    MAX_HOURS and MAX_EVAL_SAMPLES also count rows that are later rejected by comparison with others. So the limits are
    upper bounds, and which shards must be encoded does not depend on the contents of later shards.

    Attributes:
        lines: split -> number of lines of its manifest that are used.
        problems: what is wrong with texts and recordings of whole sources, one line each.
        ways: flaws common to a whole source, for which single rows would get a warning or be rejected, and what else
            could not be judged; one line each.
        words: what was heard in the rows.
    """

    def __init__(self, work: Work, heard: Mapping[Place, Heard] | None = None, others: LeftOut | None = None) -> None:
        """Compare the rows.

        Args:
            work: the run.
            heard: what a recogniser heard in the rows, by place; empty if the texts are not compared with it.
            others: rows that the user wants left out for whoever speaks in them, also with QUALITY_GATE=off.
        """
        self._work = work
        self._others = others
        self.words = Words(heard or {})
        self.lines = dict.fromkeys(SPLITS, 0)
        lengths, recordings, texts = Lengths(), Recordings(), Texts()
        sounds, prints, self._tongues = Sounds(), Prints(), Tongues()
        for split in SPLITS:
            for table in within_limits(work, split, say=True):
                self.lines[split] += len(table)
                self.words.add(split, table)
                lengths.add(split, table)
                recordings.add(split, table)
                texts.add(split, table)
                sounds.add(split, table)
                prints.add(split, table)
                self._tongues.add(table)
        mismatches = lengths.compare()
        wrong = self.words.compare()
        self.problems = wrong.problems or mismatches.problems
        flawed = sounds.compare()
        self.ways = [*flawed.sources, *wrong.notes]
        self._left_out = (*flawed.left_out, recordings.compare(), wrong.rows, mismatches.rows)
        self._doubtful = (texts.compare(), *flawed.named, *prints.compare())

    def tables(self, split: str) -> Iterator[pa.Table]:
        """Yield the used lines of a split in order; `reason` and `detail` are set for all rejected rows."""
        left = self.lines[split]
        for table in self._work.shards.tables(split, left):
            table = table.slice(0, left)
            left -= len(table)
            if self._others is not None:
                table = self._others.mark(split, table, "fail")
            for found in self._left_out:
                table = found.mark(split, table, self._work.settings.quality_gate)
            for found in self._doubtful:
                table = found.mark(split, table, "off")  # kept with a warning, whatever QUALITY_GATE is
            yield self._tongues.mark(table)


def within_limits(work: Work, split: str, say: bool = False) -> Iterator[pa.Table]:
    """Yield the shards of a split up to the row that would exceed a limit; `say` logs when MAX_HOURS is reached."""
    most_frames, most_rows = work.limits(split)
    frames = rows = 0
    for table in work.shards.tables(split, work.manifest.rows[split]):
        kept = table["reason"].is_null().to_numpy()
        all_frames = frames + np.cumsum(pc.list_value_length(table["codes"]).to_numpy())
        all_rows = rows + np.cumsum(kept)
        over = np.zeros(len(table), dtype=bool)
        if most_frames is not None:
            over |= kept & (all_frames > most_frames)
        if most_rows is not None:
            over |= all_rows - kept >= most_rows
        count = int(over.argmax()) if over.any() else len(table)
        yield table.slice(0, count)
        if count < len(table):
            if say and most_frames is not None:
                reached = int(all_rows[count] - 1)
                hours = work.settings.max_hours
                console.say(STAGE, f"MAX_HOURS={hours:g} reached after {reached} rows; the rest is not used")
            return
        frames, rows = int(all_frames[-1]), int(all_rows[-1])
        if most_rows is not None and rows >= most_rows:
            return  # later shards may not exist
