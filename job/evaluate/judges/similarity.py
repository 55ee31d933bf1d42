"""Speaker similarity: how close a voice is to its speaker, by the base model's own speaker encoder.

Also measured in windows of two seconds: some voices start as someone else, some drift in a long text. Similarity is
lower for short windows in general, so they are only compared with one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from job.config.settings import Settings
from job.core import console
from job.core.errors import JobError
from job.core.files import digest_bytes
from job.evaluate import spoken_texts
from job.evaluate.audio_stats import sounding
from job.evaluate.judges import strangers
from job.evaluate.judges.judge import Clip, Judge
from job.evaluate.judges.models import cosine, known_as
from job.model.loading import base_directory

if TYPE_CHECKING:
    from job.model.speaker_encoder import SpeakerEncoder

#: Length of a window, s, and the maximum number of windows per clip.
WINDOW, MOST_WINDOWS = 2.0, 15
#: Minimum number of windows to compare the first with the rest, and to measure drift.
FEWEST_FOR_START, FEWEST_FOR_DRIFT = 3, 4


class Similarity(Judge):
    """Cosine similarity of a clip's x-vector with the one its speaker was trained with."""

    name = "similarity"

    def __init__(self, by: str, encoder: SpeakerEncoder, references: dict[str, NDArray[np.floating[Any]]]) -> None:
        """Take the base model's encoder, and the x-vectors (dim,) by the speakers' names in lower case."""
        self.by = by
        self.encoder = encoder
        self.references = references
        self._others = strangers.Likeness(self._embed)

    def _embed(self, waveform: NDArray[np.float32], sample_rate: int) -> NDArray[np.floating[Any]]:
        return np.asarray(self.encoder.embed(waveform, sample_rate).numpy())

    def towards(self, clips: Sequence[Clip]) -> Similarity:
        """The same judge, which compares with the first of these clips of each speaker instead."""
        vectors: dict[str, NDArray[np.floating[Any]]] = {}
        for clip in clips:
            if clip.speaker.lower() not in vectors and clip.waveform.size:
                vectors[clip.speaker.lower()] = self.encoder.embed(clip.waveform, clip.sample_rate).numpy()
        return Similarity(f"{self.by}, instead {_digest(vectors)}", self.encoder, vectors)

    def __call__(self, clip: Clip) -> dict[str, Any]:
        """Return `similarity`, `similarity_start` and `similarity_drift`; None for a speaker without a reference.

        `similarity_others` is that of other people's speech, by which the first can be read.
        """
        reference = self.references.get(clip.speaker.lower())
        nothing = {"similarity": None, "similarity_start": None, "similarity_drift": None}
        if reference is None or not clip.waveform.size:
            return nothing
        whole = cosine(self._embed(clip.waveform, clip.sample_rate), reference)
        windows = [
            cosine(self._embed(window, clip.sample_rate), reference)
            for window in windows_of(clip.waveform, clip.sample_rate)
        ]
        others = self._others.to(clip.speaker, [reference])
        return {**nothing, "similarity": whole, "similarity_others": others, **by_window(windows)}


def windows_of(waveform: NDArray[np.float32], sample_rate: int) -> list[NDArray[np.float32]]:
    """Cut the sound, without silence at its ends, into windows (samples,), including its very start and end."""
    first, last = sounding(waveform, sample_rate)
    sound = waveform[first:last]
    width = round(WINDOW * sample_rate)
    count = sound.size // width
    return [sound[n * width : (n + 1) * width] for n in spoken_texts.spread(count, MOST_WINDOWS)]


def by_window(similarities: list[float]) -> dict[str, float]:
    """Summarise the similarities of one clip's windows, in order; omits figures for which there are too few."""
    found = {}
    if len(similarities) >= FEWEST_FOR_START:
        found["similarity_start"] = similarities[0] - float(np.median(similarities[1:]))
    if len(similarities) >= FEWEST_FOR_DRIFT:
        part = len(similarities) // 3 or 1
        # the first window has its own figure
        found["similarity_drift"] = float(np.mean(similarities[-part:]) - np.mean(similarities[1 : 1 + part]))
    return found


def load(settings: Settings, device: str) -> Similarity | None:
    """Load the encoder and the prepared x-vectors; None if there are none, or the base model is not available."""
    if not settings.paths.speakers.is_file():
        return None
    import torch

    from job.dataset.prepared import read_speakers
    from job.model.speaker_encoder import SpeakerEncoder

    try:
        base = base_directory(settings)
        encoder = SpeakerEncoder(base, torch.device(device))
        vectors = {name: vector.float().numpy() for name, vector in read_speakers(settings.paths).items()}
    except JobError as error:
        console.warn("synthesize", f"speaker similarity is left out: {error}")
        return None
    by = f"speaker encoder of {known_as(str(base))}, x-vectors {_digest(vectors)}"
    return Similarity(by, encoder, vectors)


def _digest(vectors: Mapping[str, NDArray[np.floating[Any]]]) -> str:
    return digest_bytes(b"".join(name.encode() + vectors[name].tobytes() for name in sorted(vectors)))[:12]
