"""Made speech of known words: sentences of a made-up language, said by a formant synthesizer, and when each is said.

The language is written as it sounds: every letter is one sound, and words are syllables of a list that is made from a
seed. So a small model can learn the letters from the sound, as it could not from so little speech of a real language.
What is natural: formants glide from sound to sound, words are stressed on their first syllable and follow each other
within 30 to 80 ms, or a short pause at a comma, pitch falls over a sentence, longer pauses and breaths lie between
sentences, and a room answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
import soxr
from scipy import fft
from scipy.signal import lfilter, oaconvolve

#: The sample rate of the synthesizer, and of the files that are written.
RATE, WRITTEN = 16_000, 24_000
#: Samples from one frame of the synthesizer to the next, of its window, and of its transform.
_HOP, _WINDOW, _SIZE = 128, 384, 512
#: Resonances above the three that tell sounds apart, hertz.
_UPPER = (3500.0, 4600.0)
#: RMS of speech, of breaths and of the room's noise, full scale being 1.
LEVEL, BREATH, ROOM = 0.08, 0.004, 0.0006


@dataclass(frozen=True)
class Sound:
    """How a letter is said: three formants (Hz), loudness of voice and of noise, the noise's band (Hz), and seconds.

    Without a band, noise passes through the formants. `closed` is the silence before a plosive's burst, in seconds.
    """

    formants: tuple[float, float, float]
    voice: float = 1.0
    noise: float = 0.0
    band: tuple[float, float] | None = None
    seconds: float = 0.09
    closed: float = 0.0


SOUNDS = {
    "a": Sound((730, 1090, 2440), seconds=0.11), "e": Sound((530, 1840, 2480), seconds=0.10),
    "i": Sound((270, 2290, 3010), seconds=0.09), "o": Sound((570, 840, 2410), seconds=0.11),
    "u": Sound((300, 870, 2240), seconds=0.10),
    "l": Sound((360, 1350, 2800), 0.5, seconds=0.07), "r": Sound((430, 1250, 1600), 0.5, seconds=0.07),
    "w": Sound((290, 620, 2150), 0.45, seconds=0.07), "y": Sound((260, 2250, 3200), 0.45, seconds=0.07),
    "m": Sound((250, 1000, 2100), 0.3, seconds=0.08), "n": Sound((250, 1600, 2600), 0.3, seconds=0.08),
    "f": Sound((350, 1200, 2500), 0, 0.25, (6500, 4500), 0.1), "s": Sound((350, 1700, 2600), 0, 0.4, (6500, 1200), 0.1),
    "h": Sound((600, 1500, 2500), 0, 0.3, None, 0.08),
    "v": Sound((300, 1150, 2500), 0.3, 0.12, (6000, 4500), 0.08),
    "z": Sound((300, 1700, 2600), 0.25, 0.22, (6500, 1200), 0.09),
    "p": Sound((400, 900, 2300), 0, 0.3, (900, 700), 0.035, 0.06),
    "t": Sound((400, 1750, 2700), 0, 0.4, (4300, 1200), 0.04, 0.055),
    "k": Sound((400, 1900, 2300), 0, 0.4, (1900, 500), 0.045, 0.055),
    "b": Sound((300, 900, 2300), 0.35, 0.15, (800, 600), 0.03, 0.05),
    "d": Sound((300, 1750, 2700), 0.35, 0.2, (4000, 1200), 0.03, 0.045),
    "g": Sound((300, 1900, 2300), 0.35, 0.2, (1900, 500), 0.035, 0.045),
}  # fmt: skip
VOWELS, FIRST, LAST = "aeiou", "lrwymnfshvzptkbdg", "lrmnsztk"


@dataclass(frozen=True)
class Word:
    """A word, when it is said (seconds), and when each of its letters is."""

    text: str
    start: float
    end: float
    letters: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True)
class Sentence:
    """A sentence as it is written, and its words."""

    text: str
    words: tuple[Word, ...]

    @property
    def start(self) -> float:
        """When its first word begins."""
        return self.words[0].start

    @property
    def end(self) -> float:
        """When its last word ends."""
        return self.words[-1].end


def words(count: int = 900, seed: int = 1) -> list[str]:
    """The words of the language, the most frequent and shortest first."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        syllables = 1 + min(3, int(rng.poisson(0.3 + 1.5 * len(found) / count)))
        word = ""
        for _ in range(syllables):
            first = rng.choice([letter for letter in FIRST if letter != word[-1:]])
            word += first + rng.choice(list(VOWELS)) + (rng.choice(list(LAST)) if rng.random() < 0.35 else "")
        found[word] = None
    return list(found)


@dataclass
class Writer:
    """Writes random sentences of the language: `Zerun ta lo, medako pil.`"""

    rng: np.random.Generator
    known: list[str] = field(default_factory=words)

    @cached_property
    def _often(self) -> np.ndarray:
        often = 1 / (10 + np.arange(len(self.known)))
        return often / often.sum()

    def sentence(self) -> str:
        """A sentence that takes 2 to 15 s to say."""
        letters = float(np.clip(self.rng.lognormal(np.log(52), 0.5), 22, 125))
        found: list[str] = []
        clause = 0
        while sum(map(len, found)) < letters:
            word = str(self.rng.choice(self.known, p=self._often))
            if found and found[-1].strip(",") == word:
                continue
            if clause >= 4 and self.rng.random() < 0.25:
                found[-1] += ","
                clause = 0
            found.append(word)
            clause += 1
        return " ".join(found).capitalize() + str(self.rng.choice([".", ".", ".", ".", "?", "!"]))


class Voice:
    """One speaker in one room. The same seed says the same text in the same way."""

    def __init__(self, rng: np.random.Generator, pitch: float = 118.0, tract: float = 1.03) -> None:
        """Take a pitch in hertz, and the factor by which the speaker's formants are higher than in the table."""
        self._rng = rng
        self._pitch = pitch
        self._tract = tract
        time = np.arange(round(0.18 * RATE)) / RATE
        room = np.random.default_rng(7).normal(0, 1, len(time)) * np.exp(-time / 0.035)
        room[: round(0.004 * RATE)] = 0
        self._room = 0.25 * room / np.sqrt((room**2).sum())
        self._room[0] = 1.0
        self._hertz = np.fft.rfftfreq(_SIZE, 1 / RATE).astype(np.float32)

    def say(self, text: str) -> tuple[np.ndarray, Sentence]:
        """Return a sentence's sound, and what is said when, in seconds from its first sample."""
        pace = float(self._rng.normal(1.0, 0.06))
        targets: list[tuple[Sound | None, float, float, float]] = []  # sound, seconds, loudness, pitch
        said: list[Word] = []
        at = 0.03
        targets.append((None, at, 0, 0))
        told = text.split()
        for number, written in enumerate(told):
            word = written.strip(",.?!").lower()
            letters: list[tuple[str, float, float]] = []
            vowel = 0
            fall = 1.12 - 0.3 * number / len(told)
            last = max(place for place, letter in enumerate(word) if letter in VOWELS)
            for place, letter in enumerate(word):
                sound = SOUNDS[letter]
                vowel += letter in VOWELS
                stress = vowel == (1 if letter in VOWELS else 0)  # the first syllable, up to its vowel
                long = (1.15 if stress else 0.95) * (1.15 if place == last else 1.0)
                long *= (1.35 if number + 1 == len(told) and place >= last else 1.0) * pace
                loud, high = (1.25, 1.14) if stress else (0.85, 0.97)
                if sound.closed and at > 0.03:  # at the very start nobody hears that the lips are closed
                    closed = sound.closed * pace * float(self._rng.normal(1, 0.1))
                    targets.append(
                        (Sound(sound.formants, 0.2 if sound.voice else 0.0), closed, loud * 0.5, high * fall)
                    )
                    at, begin = at + closed, at
                else:
                    begin = at
                seconds = max(0.02, sound.seconds * long * float(self._rng.normal(1, 0.1)))
                targets.append((sound, seconds, loud, high * fall))
                at += seconds
                letters.append((letter, begin, at))
            said.append(Word(word, letters[0][1], at, tuple(letters)))
            pause = float(self._rng.uniform(0.03, 0.08))
            if written.endswith(","):
                pause = float(self._rng.uniform(0.1, 0.3))
            elif self._rng.random() < 0.03:  # a hesitation
                pause = float(self._rng.uniform(0.08, 0.2))
            if number + 1 < len(told):
                targets.append((None, pause, 0, 0))
                at += pause
        targets.append((None, 0.06, 0, 0))
        wave = oaconvolve(self._sung(targets), self._room)
        wave *= LEVEL * self._rng.normal(1, 0.1) / np.sqrt(np.mean(wave**2))
        return wave.astype(np.float32), Sentence(text, tuple(said))

    def breath(self) -> np.ndarray:
        """The noise of breathing in."""
        seconds = float(self._rng.uniform(0.2, 0.45))
        wave = self._sung(
            [(None, 0.02, 0, 0), (Sound((700, 1600, 2600), 0, 0.5, None), seconds, 1, 1), (None, 0.02, 0, 0)]
        )
        shape = np.hanning(len(wave))
        return (BREATH * shape * wave / np.sqrt(np.mean((shape * wave) ** 2))).astype(np.float32)

    def _sung(self, targets: list[tuple[Sound | None, float, float, float]]) -> np.ndarray:
        """Return the sound of a row of targets: pulses and noise, frame by frame through the formants between them."""
        ends = np.cumsum([seconds for _, seconds, *_ in targets])
        frames = int(np.ceil(ends[-1] * RATE / _HOP)) + 1
        owner = np.minimum(np.searchsorted(ends, np.arange(frames) * _HOP / RATE, side="right"), len(targets) - 1)
        sounds = [sound for sound, *_ in targets]
        known = [sound.formants if sound else None for sound in sounds]
        for number in range(len(known)):  # silence has the formants of what comes next, else of what was
            near = [one for one in (*known[number:], *known[:number][::-1]) if one]
            known[number] = known[number] or near[0]
        formants = _smooth(np.array(known, float)[owner] * self._tract, 0.04)
        loud = np.array([one[2] for one in targets])
        voiced = _smooth((np.array([s.voice if s else 0.0 for s in sounds]) * loud)[owner], 0.016)
        noisy = _smooth((np.array([s.noise if s else 0.0 for s in sounds]) * loud)[owner], 0.01)
        bands = np.array([s.band if s and s.band else (0.0, 1.0) for s in sounds])[owner]
        high = np.array([one[3] or np.nan for one in targets])[owner]
        places = np.flatnonzero(~np.isnan(high))
        high = _smooth(np.interp(np.arange(frames), places, high[places]), 0.08)
        length = frames * _HOP + _WINDOW
        wave = np.zeros(length + _SIZE, np.float32)
        throat = self._throat(formants)
        self._through(wave, self._pulses(self._pitch * high, length), voiced, throat)
        open_ = bands[:, :1] == 0
        shape = np.where(open_, np.abs(throat), np.exp(-0.5 * ((self._hertz - bands[:, :1]) / bands[:, 1:]) ** 2))
        self._through(wave, self._rng.normal(0, 1, length), noisy, shape * np.where(open_, 0.5, 1.0))
        return wave[_WINDOW // 2 : _WINDOW // 2 + round(ends[-1] * RATE)]

    def _through(self, wave: np.ndarray, source: np.ndarray, loud: np.ndarray, shape: np.ndarray) -> None:
        """Add to `wave` a source of sound, each frame of it as loud as given and with the spectrum of `shape`."""
        some = np.flatnonzero(loud > 1e-3)
        window = (np.hanning(_WINDOW + 1)[:-1] / (_WINDOW / _HOP / 2)).astype(np.float32)
        parts = np.lib.stride_tricks.sliding_window_view(source.astype(np.float32), _WINDOW)[some * _HOP] * window
        heard = fft.irfft(fft.rfft(parts, _SIZE) * (shape[some] * loud[some, None]).astype(np.complex64), _SIZE)
        for at, one in zip(some * _HOP, heard, strict=True):
            wave[at : at + _SIZE] += one

    def _pulses(self, hertz: np.ndarray, length: int) -> np.ndarray:
        """Return a pulse for each closing of the vocal folds, none quite as long or as loud as the one before."""
        each = np.interp(np.arange(length), np.arange(len(hertz)) * _HOP + _WINDOW / 2, hertz)
        cycles = np.cumsum(each / RATE)
        at = np.interp(
            np.arange(1, int(cycles[-1])) + self._rng.normal(0, 0.008, int(cycles[-1]) - 1), cycles, np.arange(length)
        )
        whole = at.astype(int)
        whole = np.minimum(whole, length - 2)
        loud = self._rng.normal(1, 0.05, len(at)) * np.sqrt(RATE / self._pitch)
        pulses = np.zeros(length)
        np.add.at(pulses, whole, loud * (1 - (at - whole)))
        np.add.at(pulses, whole + 1, loud * (at - whole))
        return pulses

    def _throat(self, formants: np.ndarray) -> np.ndarray:
        """Return the response of the vocal tract for each frame's formants: resonators one after the other."""
        z = np.exp(-2j * np.pi * self._hertz / RATE).astype(np.complex64)
        found = np.ones((len(formants), len(z)), np.complex64)
        upper = np.broadcast_to(np.array(_UPPER) * self._tract, (len(formants), len(_UPPER)))
        for each in np.concatenate([formants, upper], axis=1).T:
            radius = np.exp(-np.pi * (50 + 0.05 * each) / RATE)[:, None].astype(np.float32)
            turn = np.cos(2 * np.pi * each / RATE)[:, None].astype(np.float32)
            found *= (1 - 2 * radius * turn + radius**2) / (1 - 2 * radius * turn * z + radius**2 * z * z)
        glottis = (1 - 0.96) / (1 - 0.96 * z)  # pulses lose 6 dB an octave after the lips
        return found * (3 * glottis)


def _smooth(values: np.ndarray, seconds: float) -> np.ndarray:
    """Return a running mean over so many seconds of frames."""
    count = max(1, round(seconds * RATE / _HOP))
    kernel = np.hanning(count + 2)[1:-1] / np.hanning(count + 2)[1:-1].sum()
    padded = np.pad(values, [(count // 2, count - 1 - count // 2)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    if values.ndim == 1:
        return np.convolve(padded, kernel, "valid")
    return np.stack([np.convolve(column, kernel, "valid") for column in padded.T], axis=1)


def _noise(rng: np.random.Generator, length: int) -> np.ndarray:
    """Return the noise of a quiet room: more of it at low frequencies."""
    found = lfilter([1.0], [1.0, -0.9], rng.normal(0, 1, length + 100))[100:]
    return ROOM * np.sqrt(1 - 0.9**2) * found


def read_aloud(path: Path, seconds: float, seed: int) -> list[list[Sentence]]:
    """Write a WAV of about so many seconds; returns its paragraphs, each the sentences that are said in it."""
    paragraphs: list[list[Sentence]] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    higher = soxr.ResampleStream(RATE, WRITTEN, 1)
    with soundfile.SoundFile(path, "w", WRITTEN, 1, "PCM_16") as file:
        rng = np.random.default_rng([seed, 3])
        for sentence, wave in _said(seconds, seed):
            if sentence is not None and (not paragraphs or rng.random() < 0.2):
                paragraphs.append([])
            if sentence is not None:
                paragraphs[-1].append(sentence)
            file.write(higher.resample_chunk(wave.astype(np.float32), last=sentence is None))
    return paragraphs


def _said(seconds: float, seed: int) -> Iterator[tuple[Sentence | None, np.ndarray]]:
    rng = np.random.default_rng([seed, 2])
    voice, writer = Voice(np.random.default_rng([seed, 0])), Writer(np.random.default_rng([seed, 1]))
    at = 0  # samples written
    while at < seconds * RATE:
        pause = float(np.clip(rng.lognormal(np.log(0.65), 0.35), 0.35, 2.2))
        before = np.zeros(round(pause * RATE))
        if pause > 0.6 and rng.random() < 0.5:
            breath = voice.breath()
            place = max(0, len(before) - len(breath) - round(rng.uniform(0.03, 0.12) * RATE))
            part = breath[: len(before) - place]
            before[place : place + len(part)] += part
        wave, sentence = voice.say(writer.sentence())
        begin = (at + len(before)) / RATE
        both = np.concatenate([before, wave])
        yield _later(sentence, begin), both + _noise(rng, len(both))
        at += len(both)
    yield None, _noise(rng, RATE)


def _later(one: Sentence, by: float) -> Sentence:
    moved = tuple(
        Word(w.text, w.start + by, w.end + by, tuple((c, a + by, b + by) for c, a, b in w.letters)) for w in one.words
    )
    return Sentence(one.text, moved)
