"""How similar other people's speech is to a speaker: the scale on which a similarity to the speaker is read.

Speaker encoders differ in it: of two people, one says 10 %, another 60 %. The other people are the embedded clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.demo import manifest
from job.evaluate.judges.models import cosine

Vector = NDArray[np.floating[Any]]
#: Every so many of the embedded clips is used.
EVERY = 3


class Likeness:
    """Mean cosine similarity of other people's speech with vectors of a speaker; computed once a speaker."""

    def __init__(self, embed: Callable[[NDArray[np.float32], int], Vector]) -> None:
        """Take the encoder: (waveform (samples,), sample rate in Hz) -> vector (dim,)."""
        self._embed = embed
        self._vectors: list[tuple[str, Vector]] | None = None
        self._found: dict[str, float] = {}

    def to(self, speaker: str, references: Sequence[Vector]) -> float:
        """Return the similarity of others than `speaker` with some vectors (dim,) of the speaker."""
        import soundfile

        if self._vectors is None:
            rows = manifest()[::EVERY]
            sounds = [(row["speaker"], *soundfile.read(row["audio"], dtype="float32")) for row in rows]
            self._vectors = [(name.lower(), self._embed(wave, rate)) for name, wave, rate in sounds]
        name = speaker.lower()
        if name not in self._found:
            others = [vector for other, vector in self._vectors if other != name]
            self._found[name] = float(np.mean([cosine(one, known) for one in others for known in references]))
        return self._found[name]
