"""The rules of `job.train.probe`: which rows are said, what counts as a fault in their codes, and what faults cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.integer[Any]]

#: Frames that all sentences of one evaluation may take together: 31 s of speech at 12.5 frames a second.
MOST_FRAMES = 384
#: A sentence may take so many times its recording's frames, and some more, before it counts as never stopping.
LIMIT_FACTOR = 2
LIMIT_SLACK = 10
#: Said in less than this share of the recording's frames, a sentence cannot be whole.
SHORTEST_SHARE = 1 / 3
#: Frames that a code must be held, or a cycle repeated, to count: 2 s at 12.5 frames a second, longer than a pause.
LEAST_REPEATED = 25
#: And a cycle must come so many times: a word said three times is no fault of the voice.
LEAST_CYCLES = 4
#: In ten frames of a repetition so many are the same as one cycle earlier: sampling slips in other codes, each of which
#: differs from the one before it and from the one after.
SAME_OF_TEN = 8
#: What a probe in which every sentence failed costs, in nats a code. See `rank`.
PENALTY_NATS = 0.5


@dataclass(frozen=True)
class Finding:
    """What one sentence became.

    Attributes:
        text: the sentence.
        frames: frames that were said, at most its limit.
        recorded: frames of the recording.
        problems: in words; none for a sentence that passes.
    """

    text: str
    frames: int
    recorded: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Heard:
    """One evaluation's findings; none when nothing was said."""

    findings: tuple[Finding, ...] = ()

    @property
    def penalty(self) -> float:
        """Share of the sentences that failed, 0 to 1."""
        return sum(bool(f.problems) for f in self.findings) / len(self.findings) if self.findings else 0.0

    def record(self) -> dict[str, Any]:
        """For the validation log, JSON-ready; nothing when nothing was said."""
        if not self.findings:
            return {}
        said = [{"text": f.text, "frames": f.frames, "problems": list(f.problems)} for f in self.findings]
        return {"penalty": self.penalty, "said": said}

    def summary(self) -> str:
        """For the console; empty when nothing was said."""
        if not self.findings:
            return ""
        failed = [f"{f.text[:40]!r}: {', '.join(f.problems)}" for f in self.findings if f.problems]
        details = f" ({'; '.join(failed)})" if failed else ""
        return f"{len(failed)} of {len(self.findings)} sentences said wrong{details}"


def rank(loss: float, penalty: float = 0.0) -> tuple[float, float]:
    """What evaluations are compared by; the lowest is the best.

    A probe that failed is worth `PENALTY_NATS` x its share of failed sentences, added to the loss (nats a code, so
    the same trade at every level of loss): a checkpoint that says both of two sentences properly is preferred to one
    that says neither, unless that one's loss is lower by more than 0.5. Among equal penalties the loss alone decides.
    A loss that is not a number comes last.

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
    """Frames that a sentence may take whose recording has `frames`."""
    return LIMIT_FACTOR * frames + LIMIT_SLACK


def choose(frames: Sequence[int], count: int, seed: int, most_frames: int = MOST_FRAMES) -> list[int]:
    """Up to `count` rows, one from each stretch of lengths, the same for the same seed.

    Rows that would take more than their part of `most_frames` are not considered.

    Args:
        frames: of every row's recording.
    """
    if count < 1:
        return []
    short = [row for row, n in enumerate(frames) if n > 0 and limit(n) <= most_frames // count]
    short.sort(key=lambda row: (frames[row], row))
    generator = np.random.default_rng(seed)
    parts = np.array_split(np.asarray(short, dtype=np.int64), min(count, len(short))) if short else []
    return [int(generator.choice(part)) for part in parts]


def problems(said: Codes, stopped: bool, recorded: Codes) -> tuple[str, ...]:
    """What is wrong with the codes of one sentence, in words.

    Repetition is looked for in book 0, which says what is spoken; the books above it differ from frame to frame even
    in silence. What the recording itself does (a long pause, a laugh) is no fault.

    Args:
        said: (frames, books), without the end.
        stopped: whether the talker chose its end token within the limit.
        recorded: (frames, books) of the recording.
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


def repetition(book: NDArray[np.integer[Any]]) -> tuple[int, int]:
    """The longest stretch that repeats itself.

    A stretch repeats with a period if `SAME_OF_TEN` of ten of its codes are the same as one period earlier. Its length
    is the number of those that are, and one period; it must be `LEAST_CYCLES` periods and `LEAST_REPEATED` frames.

    Args:
        book: (frames,) codes of one book.

    Returns:
        Its frames and its period (1: a single code), (0, 0) when there is none.
    """
    best, best_period = 0, 0
    for period in range(1, len(book) // LEAST_CYCLES + 1):
        # SAME_OF_TEN of ten codes of a window are the same just when 10 * same - SAME_OF_TEN sums to 0 or more over it:
        # when the prefix sum at its end is no smaller than at its start. The first such start for an end, which gives
        # the longest window, is where the running minimum of the prefix sums has come down to the end's.
        same = (book[period:] == book[:-period]).astype(np.int64)
        counts = np.concatenate([[0], np.cumsum(same)])
        sums = 10 * counts - SAME_OF_TEN * np.arange(len(counts))
        starts = np.searchsorted(-np.minimum.accumulate(sums), -sums, side="left")
        stretch = int((counts - counts[starts]).max()) + period
        if stretch >= max(LEAST_CYCLES * period, LEAST_REPEATED) and stretch > best:
            best, best_period = stretch, period
    return best, best_period
