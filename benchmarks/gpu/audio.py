"""Preparing: seconds of audio a second, from files to codes, by the job's own stage."""

from __future__ import annotations

import time
from collections.abc import Iterator

import common
import numpy as np
import prepare

from gpu.case import Context, Finding, rounded

#: Clips, and of these those whose codes are compared with the public tokenizer's, one at a time.
CLIPS, SMALL_CLIPS = 512, 4
COMPARED = 16


def speed(context: Context) -> Iterator[Finding]:
    """With a codec of random weights whose convolutions have the width of the released one's."""
    filters = 8 if context.small else 64
    bench = prepare.Bench(context.work / "prepare", SMALL_CLIPS if context.small else CLIPS, filters)
    assert bench.device.type == context.device.type
    codes = bench.ours()  # a first time, which does not count
    taken = []
    while len(taken) < 3 and (not taken or time.monotonic() + 2 * taken[0] < context.until):
        taken.append(common.seconds_in(bench.ours, bench.device))
    finding = Finding("prepare", {"seconds of audio": round(bench.seconds), "filters": filters})
    finding.figures["times real time"] = rounded(bench.seconds / sorted(taken)[len(taken) // 2])
    bench.paths = bench.paths[:COMPARED]
    pairs = zip(codes[:COMPARED], bench.one_by_one(), strict=True)
    same = np.concatenate([(ours[:-1] == other[: len(ours) - 1]).reshape(-1) for ours, other in pairs])
    # They resample otherwise, which moves a few codes of the clips at 44.1 kHz.
    finding.least("codes as the public tokenizer's", float(same.mean()), 0.98)
    yield finding
