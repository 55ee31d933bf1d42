"""Made-up corpora: texts of syllables in many scripts, and how long they take to say, by syllables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from job.text.letters import letters

#: Script -> how one syllable is written (from random numbers), and syllables a second.
SCRIPTS: dict[str, tuple[Callable[[np.random.Generator], str], float]] = {
    "english": (
        lambda r: _pick(r, "b d f st th k n tr l m w sh").lower() + _pick(r, "a e ee i o ou ai") + _end(r),
        4.7,
    ),
    "german": (lambda r: _pick(r, "B D F Sch K N Tr L M W").lower() + _pick(r, "a e ie i o ü au") + _end(r), 4.5),
    "spanish": (
        lambda r: _pick(r, "b d f s k n tr l m r") + _pick(r, "a e i o u ia") + ("s" * (r.random() < 0.2)),
        6.5,
    ),
    "russian": (
        lambda r: _pick(r, "б д ф ст к н тр л м в ш") + _pick(r, "а е и о у я") + ("н" * (r.random() < 0.4)),
        5.5,
    ),
    "chinese": (lambda r: chr(int(r.integers(0x4E00, 0x9000))), 4.6),
    "japanese": (lambda r: chr(int(r.choice([*range(0x304B, 0x3062, 2), *range(0x306A, 0x306F)]))), 7.0),
    "korean": (lambda r: chr(int(r.integers(0xAC00, 0xD7A0))), 6.0),
    "hindi": (lambda r: chr(int(r.integers(0x0915, 0x0929))) + _pick(r, " ा ि ी े ो") * (r.random() < 0.6), 6.0),
    "arabic": (lambda r: _pick(r, "ب ت ج ح د ر س ش ع ف ق ل م ن") + _pick(r, "ا و ي") * (r.random() < 0.6), 5.5),
}


@dataclass(frozen=True)
class Corpus:
    """Texts, their lengths in letters, seconds of sound, and numbers of speakers, (n,) each."""

    texts: list[str]
    letters: np.ndarray
    heard: np.ndarray
    speaker: np.ndarray


def corpus(
    seed: int,
    rows: int,
    script: str = "english",
    *,
    seconds: Callable[[np.random.Generator, int], np.ndarray] | None = None,
    spread: float = 0.12,
    speakers: int = 1,
    voices: float = 0.0,
    pauses: float = 0.0,
) -> Corpus:
    """Rows of about the `seconds` that are drawn (0.8 to 15 s unless told otherwise).

    `spread` is how much the rate varies from row to row, `voices` from speaker to speaker (standard deviations of
    logarithms), `pauses` the mean of the pauses as a share of the length.
    """
    random = np.random.default_rng(seed)
    write, rate = SCRIPTS[script]
    wanted = seconds(random, rows) if seconds else np.clip(random.lognormal(np.log(4), 0.6, rows), 0.8, 15)
    counts = np.maximum(1, np.round(wanted * rate)).astype(int)
    known = np.array([write(random) for _ in range(300)])
    texts = [" ".join(_words(list(random.choice(known, count)), random)) + "." for count in counts]
    speaker = random.integers(0, speakers, rows).astype(np.int32)
    rates = rate * np.exp(random.normal(0, voices, speakers))[speaker] * np.exp(random.normal(0, spread, rows))
    heard = 0.1 + counts / rates
    heard = heard + random.exponential(1, rows) * (0.03 + pauses * heard)
    return Corpus(texts, np.array([letters(text) for text in texts]), heard, speaker)


def _words(syllables: list[str], random: np.random.Generator) -> list[str]:
    words, at = [], 0
    while at < len(syllables):
        size = int(random.integers(1, 4))
        words.append("".join(syllables[at : at + size]))
        at += size
    return words


def _pick(random: np.random.Generator, choices: str) -> str:
    return str(random.choice(choices.split()))


def _end(random: np.random.Generator) -> str:
    return _pick(random, "n r t s nd") if random.random() < 0.5 else ""


def name_of(how: dict[str, Any]) -> str:
    """How a corpus is made, as a test's name: the same in every process, which a function's own text is not."""
    return ",".join(f"{key}={getattr(value, '__name__', value)}" for key, value in how.items()) or "plain"
