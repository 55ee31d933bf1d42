"""Word and character error rates, speaker similarity and predicted MOS: only what a given model can tell.

Torch and transformers are imported when a model is loaded.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.core.errors import BadInput, first_line

#: (waveform (samples,) float32, sample rate in Hz) -> transcript.
Transcriber = Callable[[NDArray[np.float32], int], str]
#: (waveform (samples,) float32, sample rate in Hz) -> score.
Scorer = Callable[[NDArray[np.float32], int], float]

#: Rate that MOS predictors and speech recognisers are trained at, Hz.
MODEL_RATE = 16_000
#: Recognisers see at most this much at once; longer speech is chunked by the pipeline.
ASR_CHUNK_SECONDS = 30


def normalize(text: str) -> str:
    """Text as it is compared: NFKC, case-folded, no punctuation or symbols, single spaces.

    Language-neutral: what is removed is decided by Unicode categories. Marks (category M: vowel signs, accents) and
    apostrophes inside words stay, since they change the word; a hyphen or dash parts words.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    out: list[str] = []
    for position, character in enumerate(folded):
        category = unicodedata.category(character)
        if character in "'’ʼ" and 0 < position < len(folded) - 1:
            inside = folded[position - 1].isalnum() and folded[position + 1].isalnum()
            out.append("'" if inside else " ")
        elif category[0] in "LNM":
            out.append(character)
        elif category not in ("Cf", "Cc") or character.isspace():
            out.append(" ")
    return " ".join("".join(out).split())


def edit_distance(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Levenshtein distance: fewest insertions, deletions and substitutions that turn one into the other.

    Two rows of the usual dynamic programme (Wagner and Fischer, 1974): O(len x len) time, O(len) memory.
    """
    previous = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, start=1):
        current = [i]
        for j, heard in enumerate(hypothesis, start=1):
            current.append(min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (expected != heard)))
        previous = current
    return previous[-1]


def word_error_rate(reference: str, hypothesis: str) -> float | None:
    """WER = (substitutions + deletions + insertions) / words of the reference, after `normalize`.

    0 is perfect; above 1 is possible. None when the reference has no words left.
    """
    words = normalize(reference).split()
    return edit_distance(words, normalize(hypothesis).split()) / len(words) if words else None


def character_error_rate(reference: str, hypothesis: str) -> float | None:
    """CER: the same over characters, spaces left out (so that scripts without spaces are judged alike)."""
    characters = normalize(reference).replace(" ", "")
    heard = normalize(hypothesis).replace(" ", "")
    return edit_distance(characters, heard) / len(characters) if characters else None


def cosine(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Cosine of the angle between two vectors of one shape (dim,), in [-1, 1]; 0 when one is zero."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.dot(a, b)) / norm if norm else 0.0


def load_transcriber(name: str, device: str, token: str | None = None) -> Transcriber:
    """The speech recogniser ASR_MODEL (a directory or a Hub repo) through transformers' own pipeline.

    The pipeline resamples; speech of over 30 s is chunked. A recogniser that needs a language detects it itself.

    Raises:
        BadInput: it cannot be loaded.
    """
    from transformers import pipeline

    try:
        recognizer: Any = pipeline("automatic-speech-recognition", model=name, device=device, token=token)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise _unusable("ASR_MODEL", name, error) from error

    def transcribe(waveform: NDArray[np.float32], sample_rate: int) -> str:
        long = waveform.size > ASR_CHUNK_SECONDS * sample_rate
        options = {"chunk_length_s": ASR_CHUNK_SECONDS} if long else {}
        return str(recognizer({"raw": waveform, "sampling_rate": sample_rate}, **options)["text"]).strip()

    return transcribe


def load_mos(name: str, device: str, token: str | None = None) -> Scorer:
    """The MOS predictor MOS_MODEL.

    Either a TorchScript file, called with float32 (1, samples) at 16 kHz and, where its `forward` takes two arguments,
    with the rate 16000 as well, that returns one number; or a transformers audio-classification model (directory or Hub
    repo) with a single output, whose logit is the score. The scale is the model's own (1 to 5 for MOS).

    Raises:
        BadInput: it cannot be loaded, or has more outputs than one.
    """
    import torch
    from torchaudio.functional import resample

    try:
        if Path(name).expanduser().is_file():
            predict = _torchscript(Path(name).expanduser(), device)
        else:
            predict = _regressor(name, device, token)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise _unusable("MOS_MODEL", name, error) from error

    def score(waveform: NDArray[np.float32], sample_rate: int) -> float:
        samples = resample(torch.from_numpy(np.array(waveform, dtype=np.float32))[None], sample_rate, MODEL_RATE)
        with torch.inference_mode():
            result = predict(samples)
        if result.numel() != 1:
            raise BadInput(f"MOS_MODEL={name}: returns {result.numel()} numbers for one clip, not one score")
        return float(result)

    return score


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
        raise ValueError(f"it has {model.config.num_labels} outputs; a MOS predictor has one")

    def predict(samples: Any) -> Any:
        inputs = extractor(samples[0].numpy(), sampling_rate=MODEL_RATE, return_tensors="pt")
        return model(**{key: value.to(device) for key, value in inputs.items()}).logits

    return predict


def _unusable(variable: str, name: str, error: Exception) -> BadInput:
    reason = first_line(error)
    return BadInput(f"{variable}={name}: cannot be loaded ({reason}); give a model directory or a Hub repo")
