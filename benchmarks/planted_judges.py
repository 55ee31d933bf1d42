"""Judges for `planted_speech.py`: a recogniser that is trained in minutes on espeak-ng, and Resemblyzer.

The recogniser (what ASR_MODEL names) learns the same voices from other sentences: words of the texts that come with the
job and words that are put together from their letters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import espeak
import letter_model
import numpy as np
import soundfile
import soxr
from made_speech import Sentence, Word
from resemblyzer_network import Resemblyzer

from job.evaluate.judges.judge import Clip
from job.evaluate.judges.similarity import Similarity

#: Voice, pitch and speed as espeak-ng takes them, and the language.
Voice = tuple[str, int, int, str]

TEXTS = Path(__file__).resolve().parents[1] / "job" / "evaluate" / "texts"
RATE = 16_000
#: Seconds of speech of each voice that the recogniser learns from, of the parts of it, and of each step; steps of both
#: kinds.
LEARNT, PARTS, TOGETHER, STEPS = 90.0, (0.8, 1.5, 4.0), 12.0, (400, 1500)


class Writer:
    """Writes random sentences of a language: half of their words are words, the others only look like some."""

    def __init__(self, language: str, rng: np.random.Generator) -> None:
        """Read the words of the texts that come with the job."""
        text = (TEXTS / f"{language}.txt").read_text(encoding="utf-8").lower()
        self.rng = rng
        self.words = sorted({"".join(c for c in word if c.isalpha()) for word in text.replace("’", "'").split()} - {""})
        self.after: dict[str, list[str]] = defaultdict(list)
        for word in self.words:
            for place, letter in enumerate(f"{word}."):
                self.after[f"  {word}"[place : place + 2]].append(letter)

    def word(self) -> str:
        if self.rng.random() < 0.5:
            return str(self.rng.choice(self.words))
        while True:
            found = "  "
            while not found.endswith("."):
                found += str(self.rng.choice(self.after[found[-2:]]))
            if 3 <= len(found[2:-1]) <= 10:
                return found[2:-1]

    def sentence(self) -> str:
        return " ".join(self.word() for _ in range(1 + int(self.rng.integers(6)))).capitalize() + "."


def speech(voices: Sequence[Voice], seconds: float, seed: int) -> Iterator[tuple[Voice, np.ndarray, Sentence]]:
    """So many seconds of each voice, one sentence after the other: (voice, samples at `RATE`, what is said when)."""
    rng = np.random.default_rng(seed)
    for voice in voices:
        writer, left = Writer(voice[3], rng), seconds
        while left > 0:
            wave, rate, said = espeak.timed(*voice[:3], writer.sentence())
            wave = soxr.resample(wave, rate, RATE)
            left -= len(wave) / RATE
            yield voice, wave, said


def recogniser(
    directory: Path, voices: Sequence[Voice], seconds: float = LEARNT, steps: tuple[int, int] = STEPS, seed: int = 0
) -> Path:
    """Train the recogniser; one that is there already is taken.

    Args:
        directory: where to.
        voices: those that it learns.
        seconds: of speech of each voice.
        steps: of both kinds.
        seed: of the sentences and the weights.
    """
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    recording = directory.with_suffix(".wav")
    said: list[Sentence] = []
    written = 0
    with soundfile.SoundFile(recording, "w", RATE, 1, "PCM_16") as file:
        for _, wave, sentence in speech(voices, seconds, seed):
            file.write(wave)
            begin, written = written / RATE, written + len(wave)
            said.append(Sentence(sentence.text, tuple(_later(word, begin) for word in sentence.words)))
    letters = {letter for one in said for word in one.words for letter in word.text}
    unfinished = directory.with_suffix(".unfinished")
    letter_model.train(unfinished, recording, said, *steps, seed, letters, PARTS, TOGETHER)
    unfinished.rename(directory)
    return directory


def _later(word: Word, by: float) -> Word:
    letters = tuple((letter, begin + by, end + by) for letter, begin, end in word.letters)
    return Word(word.text, word.start + by, word.end + by, letters)


def similarity(weights: Path, recordings: Sequence[Clip]) -> Similarity:
    """The judge of similarity with Resemblyzer in the place of the base's encoder."""
    encoder: Any = Resemblyzer(weights)
    vectors: dict[str, list[np.ndarray]] = defaultdict(list)
    for clip in {id(clip): clip for clip in recordings}.values():
        vectors[clip.speaker.lower()].append(encoder.embed(clip.waveform, clip.sample_rate).numpy())
    return Similarity("Resemblyzer", encoder, {name: np.mean(some, axis=0) for name, some in vectors.items()})
