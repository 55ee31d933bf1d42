"""Speaker similarity by a speaker-verification model (SIMILARITY_MODEL) that was not used in training the voice.

The base model's own encoder made the x-vector that the voice was trained with, and so is biased in its favour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.config.settings import Settings
from job.core.files import digest_bytes
from job.evaluate.judges import strangers
from job.evaluate.judges.judge import Clip, Judge
from job.evaluate.judges.models import cosine, known_as
from job.model.loading import explained

#: Number of recordings per speaker to compare with.
REFERENCES = 3
#: Sample rate of such models, Hz, and the shortest clip they can judge, s.
MODEL_RATE, SHORTEST = 16_000, 0.5


class Independent(Judge):
    """Mean cosine similarity of a clip's embedding with those of some recordings of its speaker, except itself.

    `know` fills `references` before anything is rated.
    """

    name = "independent similarity"

    def __init__(self, by: str, extractor: Any, model: Any, device: str) -> None:
        """Take the model and its feature extractor."""
        self.by = by
        self.extractor = extractor
        self.model = model
        self.device = device
        self.references: dict[str, list[tuple[bytes, NDArray[np.float32]]]] = {}
        self._others = strangers.Likeness(self._embed)

    def know(self, recordings: Sequence[Clip]) -> None:
        """Use the first recordings of each speaker as references."""
        for clip in recordings:
            known = self.references.setdefault(clip.speaker, [])
            if len(known) < REFERENCES + 1:
                known.append((clip.waveform.tobytes(), self.embed(clip)))
        sounds = b"".join(sound for known in self.references.values() for sound, _ in known)
        self.by = f"{self.by}, references {digest_bytes(sounds)[:12]}"

    def __call__(self, clip: Clip) -> dict[str, Any]:
        """Return `similarity_independent`, and `similarity_independent_others`, that of other people's speech."""
        itself = clip.waveform.tobytes()
        known = [vector for sound, vector in self.references.get(clip.speaker, []) if sound != itself][:REFERENCES]
        if not known or not clip.waveform.size:
            return {"similarity_independent": None}
        vector = self.embed(clip)
        return {
            "similarity_independent": float(np.mean([cosine(vector, one) for one in known])),
            "similarity_independent_others": self._others.to(clip.speaker, known),
        }

    def embed(self, clip: Clip) -> NDArray[np.float32]:
        """Compute the embedding (dim,) of a clip."""
        return self._embed(clip.waveform, clip.sample_rate)

    def _embed(self, waveform: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
        import torch
        from torchaudio.functional import resample

        samples = resample(torch.from_numpy(np.array(waveform)), sample_rate, MODEL_RATE).numpy()
        samples = np.resize(samples, max(samples.size, round(SHORTEST * MODEL_RATE)))
        inputs = self.extractor(samples, sampling_rate=MODEL_RATE, return_tensors="pt")
        with torch.inference_mode():
            output = self.model(**{key: value.to(self.device) for key, value in inputs.items()})
        return np.asarray(output.embeddings[0].float().cpu().numpy())


def load(settings: Settings, device: str) -> Independent | None:
    """Load SIMILARITY_MODEL (a directory or Hub repo with an x-vector model of transformers); None if unset.

    Raises:
        BadInput: it cannot be loaded.
    """
    name = settings.similarity_model
    if not name:
        return None
    from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

    extract: Any = AutoFeatureExtractor
    with explained(f"SIMILARITY_MODEL={name}"):
        model: Any = AutoModelForAudioXVector.from_pretrained(name, token=settings.token).to(device).eval()
        extractor = extract.from_pretrained(name, token=settings.token)
    return Independent(known_as(name), extractor, model, device)
