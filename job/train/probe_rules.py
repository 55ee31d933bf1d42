"""Rules of `job.train.probe`: which rows are said, which faults are detected in their codes, and their penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.integer[Any]]

#: Total frames that all sentences of one evaluation may take: 31 s of speech at 12.5 frames per second.
MOST_FRAMES = 384
#: A sentence counts as never stopping after LIMIT_FACTOR times its recording's frames plus LIMIT_SLACK.
LIMIT_FACTOR = 2
LIMIT_SLACK = 10
#: A sentence said in less than this share of the recording's frames must be incomplete.
SHORTEST_SHARE = 1 / 3
#: Frames for which a code must be held, or a cycle repeated, to count: 2 s at 12.5 frames per second, longer than a
#: pause.
LEAST_REPEATED = 25
#: A cycle must also repeat this many times: a word said three times is not a fault.
LEAST_CYCLES = 4
#: In a repetition, this many of ten frames equal those one cycle earlier: sampling inserts other codes, each of which
#: mismatches twice, one cycle after the code it replaces and one cycle before the next one.
SAME_OF_TEN = 8
#: Penalty, in nats per code, when every sentence of a probe failed. See `rank`.
PENALTY_NATS = 0.5


@dataclass(frozen=True)
class Finding:
    """Result of one sentence.

    Attributes:
        text: the sentence.
        frames: number of generated frames, at most its limit.
        recorded: number of frames of the recording.
        problems: in words; empty for a sentence that passes.
    """

    text: str
    frames: int
    recorded: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Heard:
    """Findings of one evaluation; empty when nothing was said."""

    findings: tuple[Finding, ...] = ()

    @property
    def penalty(self) -> float:
        """Share of sentences that failed, 0 to 1."""
        return sum(bool(f.problems) for f in self.findings) / len(self.findings) if self.findings else 0.0

    def record(self) -> dict[str, Any]:
        """Return the fields for the validation log, JSON-serializable; empty when nothing was said."""
        if not self.findings:
            return {}
        said = [{"text": f.text, "frames": f.frames, "problems": list(f.problems)} for f in self.findings]
        return {"penalty": self.penalty, "said": said}

    def summary(self) -> str:
        """Return a summary for the console; empty when nothing was said."""
        if not self.findings:
            return ""
        failed = [f"{f.text[:40]!r}: {', '.join(f.problems)}" for f in self.findings if f.problems]
        details = f" ({'; '.join(failed)})" if failed else ""
        return f"{len(failed)} of {len(self.findings)} sentences said wrong{details}"


def rank(loss: float, penalty: float = 0.0) -> tuple[float, float]:
    """Return the key that evaluations are compared by; the lowest is the best.

    `PENALTY_NATS` x the share of failed sentences is added to the loss (nats per code, so the trade-off is the same at
    every level of loss): a checkpoint that says both of two sentences properly is preferred to one that says neither,
    unless the latter's loss is lower by more than 0.5. With equal penalties the loss alone decides. A non-finite loss
    comes last.

    Example:
        >>> rank(4.30, penalty=0.0) < rank(4.25, penalty=0.5)
        True
        >>> rank(4.30, penalty=1.0) < rank(4.25, penalty=1.0)
        False
    """
    if not np.isfinite(loss):
        return np.inf, np.inf
    return loss + PENALTY_NATS * penalty, loss


def limit(frames: int) -> int:
    """Return how many frames a sentence may take if its recording has `frames`."""
    return LIMIT_FACTOR * frames + LIMIT_SLACK


def choose(frames: Sequence[int], count: int, seed: int, most_frames: int = MOST_FRAMES) -> list[int]:
    """Choose up to `count` rows, one from each quantile of lengths, reproducibly by the seed.

    Rows that would take more than their share of `most_frames` are not considered.

    Args:
        frames: number of frames of every row's recording.
    """
    if count < 1:
        return []
    short = [row for row, n in enumerate(frames) if n > 0 and limit(n) <= most_frames // count]
    short.sort(key=lambda row: (frames[row], row))
    generator = np.random.default_rng(seed)
    parts = np.array_split(np.asarray(short, dtype=np.int64), min(count, len(short))) if short else []
    return [int(generator.choice(part)) for part in parts]


def problems(said: Codes, stopped: bool, recorded: Codes) -> tuple[str, ...]:
    """Describe what is wrong with the codes of one sentence.

    Repetition is detected in codebook 0, which carries the content; higher codebooks differ from frame to frame even in
    silence. Anything the recording itself does (a long pause, a laugh) is not a fault.

    Args:
        said: (frames, codebooks) generated codes, without the end token.
        stopped: whether the talker chose its end token within the limit.
        recorded: (frames, codebooks) codes of the recording.
    """
    found = []
    if not stopped:
        found.append("never stops")
    if len(said) < SHORTEST_SHARE * len(recorded):
        found.append(f"{len(said)} frames instead of about {len(recorded)}")
    frames, period = repetition(said[:, 0])
    if frames > 2 * repetition(recorded[:, 0])[0]:
        what = "one code held" if period == 1 else f"a cycle of {period} frames repeated"
        found.append(f"{what} for {frames} frames")
    return tuple(found)


def repetition(codebook: NDArray[np.integer[Any]]) -> tuple[int, int]:
    """Find the longest stretch that repeats itself.

    A stretch repeats with a period if `SAME_OF_TEN` of ten of its codes equal those one period earlier. Its length is
    the number of codes that do, plus one period; it must be at least `LEAST_CYCLES` periods and `LEAST_REPEATED`
    frames.

    Args:
        codebook: (frames,) codes of one codebook.

    Returns:
        Its frames and its period (1: a single code), (0, 0) if there is none.
    """
    best, best_period = 0, 0
    for period in range(1, len(codebook) // LEAST_CYCLES + 1):
        # SAME_OF_TEN of ten codes in a window match if and only if 10 * same - SAME_OF_TEN sums to >= 0 over it, i.e.
        # the prefix sum at its end is no smaller than at its start. For each end, the earliest such start (the longest
        # window) is where the running minimum of the prefix sums first drops to the end's value.
        same = (codebook[period:] == codebook[:-period]).astype(np.int64)
        counts = np.concatenate([[0], np.cumsum(same)])
        sums = 10 * counts - SAME_OF_TEN * np.arange(len(counts))
        starts = np.searchsorted(-np.minimum.accumulate(sums), -sums, side="left")
        stretch = int((counts - counts[starts]).max()) + period
        if stretch >= max(LEAST_CYCLES * period, LEAST_REPEATED) and stretch > best:
            best, best_period = stretch, period
    return best, best_period
