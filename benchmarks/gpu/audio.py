"""Preparing: seconds of audio a second, from files to codes, by the job's own stage."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
import prepare
import soundfile

from gpu.case import Context, Finding, rounded
from job.core.threads import reproducible
from job.demo import clips_directory

#: Clips, and of these those whose codes are compared with the public tokenizer's, one at a time.
CLIPS, SMALL_CLIPS = 512, 4
COMPARED = 16


def speed(context: Context) -> Iterator[Finding]:
    """With a codec of random weights whose convolutions have the width of the released one's."""
    filters = 8 if context.small else 64
    clips = SMALL_CLIPS if context.small else CLIPS
    _write(context.work / "prepare" / "clips", clips)
    bench = prepare.Bench(context.work / "prepare", clips, filters)
    assert bench.device.type == context.device.type
    codes = bench.ours()  # a first time, which does not count
    taken: list[float] = []
    while len(taken) < 3 and (not taken or time.monotonic() + 2 * taken[0] < context.until):
        taken.append(common.seconds_in(bench.ours, bench.device))
    finding = Finding("prepare", {"seconds of audio": round(bench.seconds), "filters": filters})
    finding.figures["times real time"] = rounded(bench.seconds / sorted(taken)[len(taken) // 2])
    finding.figures["share of the time waited for reading"] = rounded(statistics.median(bench.waited[1:]))
    # Those at 24 kHz: the job resamples the others more precisely, which moves codes.
    chosen = slice(prepare.RATES.index(24000), len(prepare.RATES) * COMPARED, len(prepare.RATES))
    bench.paths = bench.paths[chosen]
    with reproducible():  # torch's default is TF32, whose roundings move a tenth of the codes of random weights
        alone = bench.one_by_one()
    pairs = zip(codes[chosen], alone, strict=True)
    same = np.concatenate([(ours[:-1] == other[: len(ours) - 1]).reshape(-1) for ours, other in pairs])
    finding.least("codes as the public tokenizer's", float(same.mean()), 0.99)
    yield finding


def _write(directory: Path, count: int) -> None:
    """The files of `prepare.write_clips`, cut from the built-in recordings: made-up sounds take a minute to make."""
    read = [soundfile.read(path, dtype="float32") for path in sorted(clips_directory().glob("*.flac"))]
    speech = np.concatenate([samples for samples, _ in read])
    directory.mkdir(parents=True, exist_ok=True)
    for number, seconds in enumerate(common.seconds_of_clips(count)):
        rate = prepare.RATES[number % len(prepare.RATES)]
        cut = np.resize(np.roll(speech, -7919 * number), int(seconds * rate))
        soundfile.write(directory / f"{number:04d}.wav", cut, rate)
