"""How close a sample's voice is to its speaker's, by the base model's own speaker encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from job.config.settings import Settings
from job.core import console
from job.core.errors import BadInput
from job.evaluate.metrics import cosine
from job.model.loading import base_directory

if TYPE_CHECKING:
    from job.model.speaker_encoder import SpeakerEncoder


@dataclass(frozen=True)
class Similarity:
    """Cosine between a sample's x-vector and the one that its speaker was trained with.

    Attributes:
        encoder: the base model's speaker encoder.
        references: speaker name (lower case) -> x-vector, shape (enc_dim,).
    """

    encoder: SpeakerEncoder
    references: dict[str, NDArray[np.floating[Any]]]

    def __call__(self, speaker: str, waveform: NDArray[np.float32], sample_rate: int) -> float | None:
        """Similarity in [-1, 1]; None for a speaker without a reference or a waveform without samples."""
        reference = self.references.get(speaker.lower())
        if reference is None or not waveform.size:
            return None
        return cosine(self.encoder.embed(waveform, sample_rate).numpy(), reference)


def load_similarity(settings: Settings, device: str) -> Similarity | None:
    """The encoder and the prepared x-vectors; None where there are none, or the base model is not at hand."""
    if not settings.paths.speakers.is_file():
        return None
    import torch

    from job.dataset.prepared import read_speakers
    from job.model.speaker_encoder import SpeakerEncoder

    try:
        encoder = SpeakerEncoder(base_directory(settings), torch.device(device))
        vectors = read_speakers(settings.paths)
    except BadInput as error:
        console.warn("synthesize", f"speaker similarity is left out: {error}")
        return None
    return Similarity(encoder, {name: vector.float().numpy() for name, vector in vectors.items()})
