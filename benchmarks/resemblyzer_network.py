"""Resemblyzer's speaker encoder (Apache 2.0), from the weights in its wheel: it was trained on people.

The wheel is not installed but put into a directory, where `resemblyzer/pretrained.pt` then is:
`pip install --no-deps --target DIRECTORY resemblyzer`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soxr
import torch


class Resemblyzer:
    """The network and the features of Resemblyzer: the mean of the vectors of parts of 1.6 s."""

    sample_rate = 16_000

    def __init__(self, weights: Path) -> None:
        """Read the weights that are in its wheel."""
        self._lstm = torch.nn.LSTM(40, 256, 3, batch_first=True).eval()
        self._linear = torch.nn.Linear(256, 256).eval()
        known = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
        for name, part in (("lstm.", self._lstm), ("linear.", self._linear)):
            part.load_state_dict({k.removeprefix(name): v for k, v in known.items() if k.startswith(name)})

    def embed(self, samples: np.ndarray, rate: int) -> torch.Tensor:
        """Mono samples (n,) -> vector (256,)."""
        import librosa

        wave = np.asarray(soxr.resample(samples, rate, self.sample_rate))
        level = 20 * np.log10(np.sqrt(np.mean(np.square(wave, dtype=np.float64))) + 1e-12)
        wave = np.asarray(wave * 10 ** (max(0.0, -30 - level) / 20), np.float32)
        mels = librosa.feature.melspectrogram(y=wave, sr=self.sample_rate, n_fft=400, hop_length=160, n_mels=40).T
        parts = [np.resize(mels[at : at + 160], (160, 40)) for at in range(0, max(1, len(mels) - 119), 77)]
        with torch.inference_mode():
            _, (hidden, _) = self._lstm(torch.from_numpy(np.stack(parts)))
            vectors = torch.relu(self._linear(hidden[-1]))
            return torch.nn.functional.normalize(vectors, dim=1).mean(0)
