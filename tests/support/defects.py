"""Good rows and what can be wrong with rows, for the test and the benchmark of what prepare finds.

Good rows are made of the embedded clips: whole sentences one after another, with the text that they say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations

import numpy as np
import soundfile
import soxr
from scipy.signal import butter, sosfilt

from job.demo import manifest
from tests.prepare.sounds import no_speech
from tests.support import planted

RATE = 24_000
#: The languages of the embedded clips, and the pitches that each of their two voices speaks at.
LANGUAGES, PITCHES = ("English", "German"), (0.9, 1.0, 1.12)


@dataclass(frozen=True)
class Voiced:
    """A row: mono samples at `rate`, what is said in them, and who says it in which language."""

    wave: np.ndarray
    text: str
    speaker: str
    language: str
    number: int
    rate: int = RATE


@cache
def _sentences(language: str) -> list[tuple[np.ndarray, str]]:
    clips = [row for row in manifest() if row["language"] == language]
    return [(soundfile.read(row["audio"])[0], row["text"]) for row in clips]


@cache
def _orders(language: str) -> list[tuple[int, ...]]:
    """All ways to say two or three of the sentences one after another, in some order that is always the same."""
    count = len(_sentences(language))
    found = [order for length in (2, 3) for order in permutations(range(count), length)]
    return [found[n] for n in np.random.default_rng(0).permutation(len(found))]


def good_row(number: int) -> Voiced:
    """Two or three sentences, another choice of them for each number, by one of six voices."""
    rng = np.random.default_rng(number)
    voice = number % (len(LANGUAGES) * len(PITCHES))
    language, pitch = LANGUAGES[voice % len(LANGUAGES)], PITCHES[voice // len(LANGUAGES)]
    orders = _orders(language)
    chosen = [_sentences(language)[n] for n in orders[(number // 2 + number // 504) % len(orders)]]
    parts = [np.zeros(0)]
    for wave, _ in chosen:
        parts += [wave, np.zeros(int(RATE * rng.uniform(0.05, 0.3)))]
    wave = soxr.resample(np.concatenate(parts), RATE * pitch * rng.uniform(0.98, 1.02), RATE)
    text = " ".join(text for _, text in chosen)
    return Voiced(in_a_room(wave, rng), text, f"{language.lower()}-{pitch}", language, number)


def in_a_room(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At some level, with silence at both ends, over the noise of a quiet room (-62 to -75 dBFS)."""
    ends = [np.zeros(int(RATE * rng.uniform(0.1, 0.4))) for _ in range(2)]
    wave = np.concatenate([ends[0], wave, ends[1]])
    wave = wave * (rng.uniform(0.25, 0.7) / np.abs(wave).max())
    noise = planted.pink(wave, rng)
    return wave + noise / noise.std() * 10 ** (rng.uniform(-75, -62) / 20)


def rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(wave**2)))


def another(one: Voiced, rng: np.random.Generator) -> np.ndarray:
    """Speech of another voice in the same language, of the same length."""
    other = good_row(50_000 + 6 * int(rng.integers(1000)) + (one.number + 2) % 6)
    return np.resize(other.wave, one.wave.size)


def hum(hertz: int) -> Callable[[Voiced, np.random.Generator], np.ndarray]:
    def plant(one: Voiced, rng: np.random.Generator) -> np.ndarray:
        time = np.arange(one.wave.size) / RATE
        lines = np.zeros(one.wave.size)
        for harmonic, strength in ((1, 1.0), (2, 0.4), (3, 0.6)):
            lines += strength * np.sin(2 * np.pi * hertz * harmonic * time + rng.uniform(0, 6))
        return one.wave + lines * rms(one.wave) * 0.5 / rms(lines)

    return plant


def noisy(one: Voiced, rng: np.random.Generator, ratio: float = 0.0) -> np.ndarray:
    return 0.5 * (one.wave + rms(one.wave) * 10 ** (-ratio / 20) * rng.standard_normal(one.wave.size))


def telephone(one: Voiced, rng: np.random.Generator) -> np.ndarray:
    return sosfilt(butter(10, [300, 3400], "band", fs=RATE, output="sos"), one.wave)


def paused(one: Voiced, rng: np.random.Generator) -> np.ndarray:
    middle = one.wave.size // 2
    return np.concatenate([one.wave[:middle], 1e-4 * rng.standard_normal(int(3.5 * RATE)), one.wave[middle:]])


def music(one: Voiced, rng: np.random.Generator) -> np.ndarray:
    return no_speech("chords", one.wave.size / RATE + 0.1, int(rng.integers(1 << 30)))[: one.wave.size]


def under_music(one: Voiced, rng: np.random.Generator) -> np.ndarray:
    tune = music(one, rng)
    return 0.7 * (one.wave + tune * rms(one.wave) * 0.5 / rms(tune))


def two_voices(one: Voiced, rng: np.random.Generator) -> np.ndarray:
    other = another(one, rng)
    return 0.6 * (one.wave + other * rms(one.wave) / rms(other))


def gated(one: Voiced, rng: np.random.Generator) -> np.ndarray:
    """What a spectral gate leaves when it is turned up too far: single bins that come and go."""
    import librosa

    spectrum = librosa.stft(noisy(one, rng, 10), n_fft=512)
    magnitude = np.abs(spectrum)
    kept = magnitude > 2.2 * np.median(magnitude, axis=1, keepdims=True)
    return librosa.istft(spectrum * kept, n_fft=512, length=one.wave.size)


def dropouts(one: Voiced, rng: np.random.Generator) -> np.ndarray:
    wave = one.wave.copy()
    for start in range(int(0.1 * RATE), wave.size, int(0.2 * RATE)):
        wave[start : start + int(0.02 * RATE)] = 0
    return wave


def _inside(one: Voiced) -> tuple[int, int]:
    """A place in the first and in the last third where it is loud: the middle of a word."""
    level = np.convolve(one.wave**2, np.ones(720), "same")
    third = one.wave.size // 3
    return int(np.argmax(level[:third])), 2 * third + int(np.argmax(level[2 * third :]))


def _pulsed(one: Voiced, rng: np.random.Generator) -> np.ndarray:
    """The row said by a vocoder of pulses, as throats have them; the embedded voices add up sines."""
    return in_a_room(planted.vocoded(one.wave, rng), rng)


def _silence(seconds: float, rng: np.random.Generator) -> np.ndarray:
    return 2e-4 * rng.standard_normal(int(seconds * RATE))


#: What is wrong with the sound of a row.
SOUNDS: dict[str, Callable[[Voiced, np.random.Generator], np.ndarray]] = {
    "clipped hard": lambda one, rng: np.clip(6 * one.wave / np.abs(one.wave).max(), -1, 1),
    "clipped hard, then softer": lambda one, rng: 0.3 * np.clip(6 * one.wave / np.abs(one.wave).max(), -1, 1),
    "DC offset": lambda one, rng: 0.6 * one.wave + 0.2,
    "hum of 50 Hz": hum(50),
    "hum of 60 Hz": hum(60),
    "white noise at 0 dB": noisy,
    "telephone, 3.4 kHz": telephone,
    "8 kHz, upsampled": lambda one, rng: planted.through(8000)(one.wave, rng)[: one.wave.size],
    "nearly silent": lambda one, rng: one.wave / rms(one.wave) * 10 ** (-57 / 20),
    "2 s of silence before": lambda one, rng: np.concatenate([_silence(2, rng), one.wave]),
    "2 s of silence after": lambda one, rng: np.concatenate([one.wave, _silence(2, rng)]),
    "a long pause inside": paused,
    "music": music,
    "music under speech": under_music,
    "a tone": lambda one, rng: 0.3 * np.sin(2 * np.pi * rng.uniform(200, 1200) * np.arange(one.wave.size) / RATE),
    "two voices at once": two_voices,
    "reversed": lambda one, rng: _pulsed(one, rng)[::-1],
    "reversed, a voice of sines": lambda one, rng: one.wave[::-1],
    "double speed": lambda one, rng: soxr.resample(one.wave, RATE * 2, RATE),
    "half speed": lambda one, rng: soxr.resample(one.wave, RATE / 2, RATE),
    "robot (vocoder at one pitch)": lambda one, rng: planted.robot(one.wave, rng),
    "metallic (denoised too far)": gated,
    "a loop of 50 ms": lambda one, rng: planted.loop(one.wave, rng),
    "dropouts": dropouts,
    "cut off at the start": lambda one, rng: one.wave[_inside(one)[0] :],
    "cut off at the end": lambda one, rng: one.wave[: _inside(one)[1]],
}


def _half(text: str) -> str:
    words = text.split()
    return " ".join(words[: len(words) // 2])


#: What is wrong with the text of a row; the second row is another good one.
TEXTS: dict[str, Callable[[Voiced, Voiced], Voiced]] = {
    "text of another row": lambda one, other: replace(one, text=other.text),
    "half of the text": lambda one, other: replace(one, text=_half(one.text)),
    "text twice": lambda one, other: replace(one, text=f"{one.text} {one.text}"),
    "wrong language": lambda one, other: replace(
        one, language=LANGUAGES[1 - LANGUAGES.index(one.language)], speaker=f"{one.speaker}"
    ),
    "digits only": lambda one, other: replace(
        one, text=" ".join(str(37 * n) for n in range(1, 2 + len(one.text) // 16))
    ),
}


def _compressed(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Through an MP3 and back, a little softer."""
    import io

    made = io.BytesIO()
    soundfile.write(made, 0.9 * wave, RATE, format="MP3", subtype="MPEG_LAYER_III")
    made.seek(0)
    return soundfile.read(made)[0]


#: Second copies of good rows.
COPIES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "the same recording again": lambda wave, rng: wave,
    "again, softer": lambda wave, rng: 0.6 * wave,
    "again, 1 % faster": lambda wave, rng: soxr.resample(wave, RATE * 1.01, RATE),
    "again, through an MP3": _compressed,
}
