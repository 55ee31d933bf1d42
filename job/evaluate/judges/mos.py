"""MOS (mean opinion score): predicted naturalness of speech, from 1 (bad) to 5 (excellent).

Predicted by DistillMOS, whose weights are in its package, or by the model that MOS_MODEL names.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from job.config.settings import Settings
from job.core.errors import BadInput
from job.evaluate.judges.judge import Clip, Judge
from job.evaluate.judges.models import known_as
from job.model.loading import explained

#: Sample rate of MOS predictors, Hz.
MODEL_RATE = 16_000
#: Maximum number of 7.7 s windows of a long clip that are rated.
MOST_WINDOWS = 4


class Mos(Judge):
    """Scores by `predict`, which takes float32 (1, samples) at 16 kHz and returns one number as a tensor."""

    name = "mos"

    def __init__(self, by: str, predict: Callable[[Any], Any]) -> None:
        """Take the predictor and its name."""
        self.by = by
        self.predict = predict

    def __call__(self, clip: Clip) -> dict[str, Any]:
        """Return `mos`."""
        import torch
        from torchaudio.functional import resample

        if not clip.waveform.size:
            return {"mos": None}
        samples = resample(torch.from_numpy(np.array(clip.waveform))[None], clip.sample_rate, MODEL_RATE)
        with torch.inference_mode():
            result = self.predict(samples)
        if result.numel() != 1:
            raise ValueError(f"{self.by} returns {result.numel()} numbers for one clip, not one score")
        return {"mos": float(result)}


def load(settings: Settings, device: str) -> Mos | None:
    """Load DistillMOS by default, None for MOS_MODEL=none, or else the model that MOS_MODEL names.

    That is a TorchScript file which returns one number and is called with float32 (1, samples) at 16 kHz and, if its
    `forward` takes two arguments, also with the rate 16000; or a transformers audio-classification model (directory or
    Hub repo) with a single output, whose logit is the score.

    Raises:
        BadInput: MOS_MODEL cannot be loaded, or has more than one output.
    """
    name = settings.mos_model
    if not name:
        return Mos(f"distillmos {version('distillmos')}, {MOST_WINDOWS} stretches", _distilled(device))
    if name == "none":
        return None
    path = Path(name).expanduser()
    with explained(f"MOS_MODEL={name}"):
        predict = _torchscript(path, device) if path.is_file() else _regressor(name, device, settings.token)
    return Mos(known_as(name), predict)


def _distilled(device: str) -> Callable[[Any], Any]:
    from distillmos import ConvTransformerSQAModel
    from distillmos.sqa import SEQ_LEN

    with contextlib.redirect_stdout(io.StringIO()):  # it prints the path of its weights
        model = ConvTransformerSQAModel(segmenting_in_forward=False)
    model = model.to(device).eval()

    def predict(samples: Any) -> Any:
        return model(windows(samples[0], SEQ_LEN).to(device)).mean()

    return predict


def windows(samples: Any, width: int) -> Any:
    """Cut samples (n,) into up to `MOST_WINDOWS` evenly spaced windows (windows, width), padded with silence.

    DistillMOS itself takes one window per second, which for speech that never stops would take longer than generation.
    """
    import torch

    count = min(MOST_WINDOWS, math.ceil(samples.numel() / width))
    starts = [round(n * max(0, samples.numel() - width) / max(1, count - 1)) for n in range(count)]
    cut = [samples[start : start + width] for start in starts]
    return torch.stack([torch.nn.functional.pad(one, (0, width - one.numel())) for one in cut])


def _torchscript(path: Path, device: str) -> Callable[[Any], Any]:
    import torch

    load: Any = torch.jit.load
    module = load(str(path), map_location=device).eval()
    takes_rate = len(module.forward.schema.arguments) > 2  # self and the waveform

    def predict(samples: Any) -> Any:
        samples = samples.to(device)
        return module(samples, MODEL_RATE) if takes_rate else module(samples)

    return predict


def _regressor(name: str, device: str, token: str | None) -> Callable[[Any], Any]:
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    extract: Any = AutoFeatureExtractor
    model: Any = AutoModelForAudioClassification.from_pretrained(name, token=token).to(device).eval()
    extractor = extract.from_pretrained(name, token=token)
    if model.config.num_labels != 1:
        raise BadInput(f"MOS_MODEL={name}: it has {model.config.num_labels} outputs; a MOS predictor has one")

    def predict(samples: Any) -> Any:
        inputs = extractor(samples[0].numpy(), sampling_rate=MODEL_RATE, return_tensors="pt")
        return model(**{key: value.to(device) for key, value in inputs.items()}).logits

    return predict
