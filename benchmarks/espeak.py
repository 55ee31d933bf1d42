"""Speech by espeak-ng, with the time of each word: its library is called, as the command does not tell the times."""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache
from typing import Any

import numpy as np
from made_speech import Sentence, Word

#: Of its interface: return the sound instead of playing it; text is UTF-8, with a pause at its end; kinds of events and
#: of parameters.
_RETRIEVE, _UTF8, _WORD, _SPEED, _PITCH = 1, 0x1001, 1, 1, 3


class _Event(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int), ("identifier", ctypes.c_uint), ("place", ctypes.c_int), ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int), ("sample", ctypes.c_int), ("data", ctypes.c_void_p), ("id", ctypes.c_char * 8),
    )  # fmt: skip


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@cache
def _library() -> tuple[Any, int]:
    """The library, and the sample rate of its speech in Hz."""
    name = ctypes.util.find_library("espeak-ng")
    if name is None:
        raise SystemExit("espeak-ng is not installed; `apt-get install espeak-ng` does that")
    library = ctypes.CDLL(name)
    return library, library.espeak_Initialize(_RETRIEVE, 0, None, 0)


def timed(voice: str, pitch: int, speed: int, text: str) -> tuple[np.ndarray, int, Sentence]:
    """Return speech (samples,), its sample rate in Hz, and its words with their times.

    The letters of a word are taken to be spread evenly over it.
    """
    library, rate = _library()
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {voice}")
    library.espeak_SetParameter(_SPEED, speed, 0)
    library.espeak_SetParameter(_PITCH, pitch, 0)
    parts: list[np.ndarray] = []
    found: list[tuple[int, int, int]] = []

    def receive(sound: Any, count: int, events: Any) -> int:
        if sound and count:
            parts.append(np.ctypeslib.as_array(sound, (count,)).copy())
        number = 0
        while events[number].kind:
            event = events[number]
            if event.kind == _WORD:
                found.append((event.place - 1, event.length, event.sample))
            number += 1
        return 0

    callback = _CALLBACK(receive)
    library.espeak_SetSynthCallback(callback)
    encoded = text.encode() + b"\0"
    library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 1, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    wave = np.concatenate(parts) / 32768
    heard = np.flatnonzero(np.abs(wave) > 0.01)
    ends = [*(sample for _, _, sample in found[1:]), int(heard[-1]) if heard.size else wave.size]
    words = []
    for (place, length, start), end in zip(found, ends, strict=True):
        letters = [letter for letter in text[place : place + length].lower() if letter.isalpha()]
        if letters and end > start:
            edges = np.linspace(start / rate, end / rate, len(letters) + 1)
            timed = tuple((letter, float(a), float(b)) for letter, a, b in zip(letters, edges, edges[1:], strict=False))
            words.append(Word("".join(letters), start / rate, end / rate, timed))
    return wave, rate, Sentence(text, tuple(words))
