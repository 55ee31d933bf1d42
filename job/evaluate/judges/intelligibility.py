"""Intelligibility: whether a speech recogniser (ASR_MODEL) transcribes the intended text."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.audio.clip import resample
from job.config.settings import Settings
from job.evaluate.judges.judge import Clip, Judge
from job.evaluate.judges.models import known_as
from job.model.loading import explained
from job.model.recogniser import named
from job.text.error_rates import error_rates

#: (waveform (samples,) float32, sample rate in Hz) -> transcript.
Transcriber = Callable[[NDArray[np.float32], int], str]

#: Recognisers process at most this much at once, s; longer speech is chunked by the pipeline.
CHUNK_SECONDS = 30


class Intelligibility(Judge):
    """Error rates of the transcripts from `transcribe`."""

    name = "intelligibility"

    def __init__(self, by: str, transcribe: Transcriber) -> None:
        """Take the recogniser and its name."""
        self.by = by
        self.transcribe = transcribe

    def __call__(self, clip: Clip) -> dict[str, Any]:
        """Return `wer`, `cer` and the `transcript`."""
        transcript = self.transcribe(clip.waveform, clip.sample_rate) if clip.waveform.size else ""
        words, characters = error_rates(clip.text, transcript, clip.language)
        return {"wer": words, "cer": characters, "transcript": transcript}


def load(settings: Settings, device: str) -> Intelligibility | None:
    """Load ASR_MODEL (a directory, a Hub repo, or `demo`); None if unset.

    Raises:
        BadInput: it cannot be loaded.
    """
    name = named(settings)
    if not name:
        return None
    by = f"{known_as(name)}, jiwer {version('jiwer')}"
    return Intelligibility(by, load_transcriber(name, device, settings.token))


def load_transcriber(name: str, device: str, token: str | None = None) -> Transcriber:
    """Load the named speech recogniser through transformers' pipeline.

    Speech of over 30 s is chunked by the pipeline. A recogniser that needs a language detects it itself.

    Raises:
        BadInput: it cannot be loaded.
    """
    from transformers import pipeline

    with explained(f"ASR_MODEL={name}"):
        recognizer: Any = pipeline("automatic-speech-recognition", model=name, device=device, token=token)

    def transcribe(waveform: NDArray[np.float32], sample_rate: int) -> str:
        # Not left to the pipeline: that of transformers 4.57 gives torchaudio the old rate as the new one, and so
        # speech at 24 kHz would be heard a third slower and lower than it is.
        rate = int(recognizer.feature_extractor.sampling_rate)
        waveform, sample_rate = resample(waveform, sample_rate, rate), rate
        long = waveform.size > CHUNK_SECONDS * sample_rate
        options = {"chunk_length_s": CHUNK_SECONDS} if long else {}
        return str(recognizer({"raw": waveform, "sampling_rate": sample_rate}, **options)["text"]).strip()

    return transcribe
