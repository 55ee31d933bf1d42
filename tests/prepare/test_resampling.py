"""Recordings that threads resample at the same time sound as they do alone, on every processor."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr

from job.audio import resampling
from job.audio.clip import resample
from job.config.settings import Settings
from job.prepare.augment import changes
from tests.prepare.conftest import voice

#: Fresh processes, each of which resamples eight signals at once and then one by one.
AT_ONCE = """
import os, sys, threading
import numpy as np
from job.audio import resampling
from job.audio.clip import resample

rates = [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000]
draw = np.random.default_rng(0)
signals = [0.1 * draw.standard_normal(rate // 2).astype(np.float32) for rate in rates]
print(resampling.engine())
ends = []
for _ in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        sys.setswitchinterval(1e-5)
        found, go = {}, threading.Event()
        def work(n):
            go.wait()
            found[n] = resample(signals[n], rates[n], 24000)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(len(rates))]
        for thread in threads: thread.start()
        go.set()
        for thread in threads: thread.join()
        same = all(np.array_equal(found[n], resample(signals[n], rates[n], 24000)) for n in range(len(rates)))
        os._exit(0 if same else 7)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(set(ends))
"""


@pytest.mark.parametrize("engine", ["cr64", None])
def test_signals_that_are_resampled_at_the_same_time_are_right(engine: str | None) -> None:
    """Also with the engine of processors without AVX, which alone is wrong or crashes in one process of ten."""
    without = {} if engine is None else {"SOXR_USE_SIMD": "0", "SOXR_USE_SIMD32": "0", "SOXR_USE_SIMD64": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", AT_ONCE, "25"],
        env={**os.environ, **without},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    used, ends = ended.stdout.split("\n")[:2]
    assert engine in (None, used)
    assert ends == "{0}"


def most_at_once(call: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many calls of soxr there are at the same time, at most, when four threads make `call`."""
    lock, now, most = threading.Lock(), 0, 0
    real = soxr.resample

    def watched(*given: Any, **others: Any) -> Any:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        try:
            return real(*given, **others)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(soxr, "resample", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(8)))
    return most


@pytest.mark.parametrize(
    ("engine", "alone"), [("cr64", True), ("", True), ("something new", True), ("cr64s", False), ("cr32s", False)]
)
def test_calls_come_one_at_a_time_unless_the_engine_is_known_to_share_nothing(
    engine: str, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "engine", lambda: engine)
    clip = voice(0.2, 16_000)
    assert (most_at_once(lambda _: resample(clip, 16_000, 24_000), monkeypatch) == 1) == alone


@pytest.mark.slow  # librosa compiles for half a minute
def test_copies_of_another_pitch_are_resampled_one_at_a_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "engine", lambda: "cr64")
    change = changes(Settings(augment_pitch=True))["pitch+2"]
    clip, draw = voice(0.3), np.random.default_rng(0)
    change(clip, 24_000, draw)
    assert most_at_once(lambda _: change(clip, 24_000, draw), monkeypatch) == 1


def test_an_engine_is_named_on_this_processor() -> None:
    """When soxr no longer tells, its calls come one at a time: right, but slow."""
    assert resampling.engine() in ("cr64", "cr64s")
