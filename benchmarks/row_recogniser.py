"""A small recogniser for the voices of `planted_rows.py`, trained on their words in random order.

It is `letter_model.py`'s CTC model. What it learns from is made of the embedded clips, as the rows are: their sentences
one after another, at any pitch between the rows' lowest and highest, in a room with some noise. Rows are two or three
different sentences; here four follow each other at random, with other pauses, and half of the time it is twelve single
words, cut out of the clips. There are only seven sentences a language, so any two that are neighbours in a row may be
neighbours here as well: it knows the voices and every word of a good row, as a released recogniser knows people and
languages. Of defects, and of wrong texts, it has met none.
"""

from __future__ import annotations

import importlib
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import common  # noqa: F401 - puts the repository on the path
import letter_model
import numpy as np
import soundfile
import soxr
from made_speech import Sentence, Word

from job.demo import manifest
from tests.support import defects
from tests.support.defects import LANGUAGES, PITCHES, RATE

_of_the_demo: Any = importlib.import_module("scripts.demo_recogniser")
BEGINNINGS, LETTERS, spelled = _of_the_demo.BEGINNINGS, _of_the_demo.LETTERS, _of_the_demo.spelled
#: Minutes that it learns from, and steps of training by the letters of frames and by the CTC loss.
MINUTES, STEPS = 12.0, (450, 250)
#: Sentences, and words of shuffled ones, that are said at one pitch.
IN_A_ROW = 4, 12

#: A word's letters and its samples at `RATE`.
Cut = tuple[str, np.ndarray]


def trained(directory: Path, minutes: float = MINUTES, steps: tuple[int, int] = STEPS) -> Path:
    """Return the recogniser's directory, after training it if it is not there yet."""
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        recording = directory.with_name(f"{directory.name}.wav")
        said = speech(recording, minutes)
        unfinished = directory.with_name(f"{directory.name}.unfinished")
        letter_model.train(unfinished, recording, said, *steps, letters=LETTERS)
        unfinished.rename(directory)
    return directory


def _clips(language: str) -> list[list[Cut]]:
    """The words of each clip of a language, cut where the next one begins."""
    found = []
    for row in manifest():
        if row["language"] == language:
            wave = soundfile.read(row["audio"])[0]
            begins = BEGINNINGS[Path(row["audio"]).stem]
            cuts = [0, *(round(begin * RATE) for begin in begins[1:]), len(wave)]
            words = spelled(row["text"]).split()
            found.append([(word, wave[a:b]) for word, (a, b) in zip(words, pairwise(cuts), strict=True)])
    return found


def speech(path: Path, minutes: float, seed: int = 0) -> list[Sentence]:
    """Write a WAV of about so many minutes; returns what is said in it, and when."""
    rng = np.random.default_rng([seed, 4])
    clips = {language: _clips(language) for language in LANGUAGES}
    said: list[Sentence] = []
    waves: list[np.ndarray] = []
    at = 0
    while at < minutes * 60 * RATE:
        those = clips[LANGUAGES[len(waves) % len(LANGUAGES)]]
        sentences = [those[int(n)] for n in rng.integers(len(those), size=IN_A_ROW[0])]
        if rng.random() < 0.5:
            words = [word for one in those for word in one]
            sentences = [[words[int(n)]] for n in rng.integers(len(words), size=IN_A_ROW[1])]
        faster = float(rng.uniform(0.97 * min(PITCHES), 1.03 * max(PITCHES)))
        wave, spans = _one_after_another(sentences, faster, rng)
        # The room's silence in front is of unknown length: the sound is where the wave, which it ends with, begins.
        heard = defects.in_a_room(wave, rng)
        front = _front(heard, wave)
        for placed in spans:
            moved = [_spread(word, (at + front + a) / RATE, (at + front + b) / RATE) for word, a, b in placed]
            said.append(Sentence(" ".join(word.text for word in moved), tuple(moved)))
        waves.append(heard)
        at += len(heard)
    soundfile.write(path, np.clip(np.concatenate(waves), -1, 1), RATE, subtype="PCM_16")
    return said


def _one_after_another(
    sentences: list[list[Cut]], faster: float, rng: np.random.Generator
) -> tuple[np.ndarray, list[list[tuple[str, int, int]]]]:
    """Join sentences with short pauses, at a pitch; returns the samples, and each word's first and last of them."""
    parts: list[np.ndarray] = []
    spans: list[list[tuple[str, int, int]]] = []
    at = 0
    for words in sentences:
        spans.append([])
        for word, wave in words:
            spans[-1].append((word, at, at + len(wave)))
            parts.append(wave)
            at += len(wave)
        pause = int(RATE * rng.uniform(0.02, 0.3))
        parts.append(np.zeros(pause))
        at += pause
    wave = soxr.resample(np.concatenate(parts), RATE * faster, RATE)
    return wave, [[(word, round(a / faster), round(b / faster)) for word, a, b in one] for one in spans]


def _front(heard: np.ndarray, wave: np.ndarray) -> int:
    """How many samples a room put before a wave: where the two are alike."""
    from scipy.signal import correlate

    return int(np.argmax(correlate(heard, wave, "valid", "fft")))


def _spread(word: str, start: float, end: float) -> Word:
    """A word whose letters take equal parts of it."""
    each = (end - start) / len(word)
    letters = tuple((letter, start + n * each, start + (n + 1) * each) for n, letter in enumerate(word))
    return Word(word, start, end, letters)


if __name__ == "__main__":
    print(trained(Path(sys.argv[1])))
