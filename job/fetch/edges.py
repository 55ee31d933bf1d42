"""Move the start and end of a subtitle's sentence out of speech: its times are imprecise, and may truncate a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from job.audio import speech
from job.audio.decode import CANNOT_READ, Recording, recording_of_parts
from job.audio.measure import Samples, mix
from job.audio.unusable import Unusable
from job.core import storage
from job.fetch.segments import Part

#: Maximum distance that an edge is moved, and how far into the pause it is moved; seconds.
FARTHEST, INSIDE = 0.3, 0.1
#: Seconds on each side of an edge that are passed to the speech detector.
_AROUND = 1.5
#: Seconds between the starts of two windows of the detector.
STEP = speech.WINDOW / speech.RATE
#: Minimum length of a pause, in windows without speech (probabilities averaged over `speech.SMOOTH` windows).
SHORTEST_PAUSE = 2


class Edges:
    """Moves edges of sentences that lie in speech into a nearby pause, if there is one, and counts the results."""

    def __init__(self) -> None:
        self.moved = 0
        self.most = 0.0
        self.in_speech = 0
        self.seen = 0

    def settle(self, audio: Path, part: Part) -> Part:
        """Move the part's edges into pauses; unchanged if the recording cannot be read, which prepare reports."""
        try:
            recording = recording_of_parts(audio)
            start = self._edge(recording, part.start) if part.start > 0 else 0.0
            end = None if part.end is None else self._edge(recording, part.end)
        except (*CANNOT_READ, Unusable) as error:
            storage.check(error, audio)
            return part
        return Part(start, end) if end is None or end > start else part

    def line(self) -> str | None:
        """Return a log line about what was done; None if no edge was in speech."""
        if not self.moved and not self.in_speech:
            return None
        moved = f"{self.moved} of {self.seen} edges of sentences moved into the pause nearby"
        moved += f" (at most {self.most:.2f} s)" if self.moved else ""
        return moved + (f", {self.in_speech} left in speech: there is no pause near them" if self.in_speech else "")

    def _edge(self, recording: Recording, seconds: float) -> float:
        rate = recording.rate
        if seconds >= recording.length / rate:
            return seconds
        self.seen += 1
        first = max(0, round((seconds - _AROUND) * rate))
        heard = mix(recording.read_part(first, round((seconds + _AROUND) * rate)))
        if not len(heard) or not np.isfinite(heard).all():
            return seconds
        found = nearest_pause(chances(heard, rate) >= speech.PERHAPS, seconds - first / rate)
        if found is None:
            self.in_speech += 1
            return seconds
        moved = first / rate + found
        if abs(moved - seconds) > 1e-6:
            self.moved += 1
            self.most = max(self.most, abs(moved - seconds))
            return round(moved, 3)
        return seconds


def chances(samples: Samples, rate: int) -> np.ndarray:
    """Return for each window, `STEP` seconds apart, the probability of speech, averaged with its neighbours."""
    probabilities = speech.detector().probabilities(samples, rate)[speech.LEAD :]
    padded = np.pad(probabilities, speech.SMOOTH // 2, mode="edge")
    return np.convolve(padded, np.ones(speech.SMOOTH) / speech.SMOOTH, "valid")


def nearest_pause(spoken: np.ndarray, edge: float) -> float | None:
    """Return the position in a pause that is nearest to `edge`, both in seconds.

    It is `edge` itself if that is in a pause, and None if no pause is within `FARTHEST`. `spoken` says for each window,
    `STEP` seconds apart, whether it may contain speech."""
    changes = np.flatnonzero(np.diff(np.concatenate([[True], spoken, [True]]).astype(np.int8)))
    best: float | None = None
    for first, last in zip(changes[::2], changes[1::2], strict=True):  # windows first to last - 1 are a pause
        begins, ends = first * STEP, (last - 1) * STEP
        if last - first < SHORTEST_PAUSE:
            continue
        if begins <= edge <= ends:
            return edge
        inside = min(INSIDE, (ends - begins) / 2)
        place = min(begins + inside, edge + FARTHEST) if begins > edge else max(ends - inside, edge - FARTHEST)
        near = begins - edge <= FARTHEST if begins > edge else edge - ends <= FARTHEST
        if near and (best is None or abs(place - edge) < abs(best - edge)):
            best = float(place)
    return best
