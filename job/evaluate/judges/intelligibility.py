"""Intelligibility: whether a speech recogniser (ASR_MODEL) transcribes the intended text. jiwer counts the errors."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.config.settings import Settings
from job.evaluate.judges.judge import Clip, Judge
from job.evaluate.judges.models import identity, loading
from job.text.letters import script

#: (waveform (samples,) float32, sample rate in Hz) -> transcript.
Transcriber = Callable[[NDArray[np.float32], int], str]

#: Recognisers process at most this much at once, s; longer speech is chunked by the pipeline.
CHUNK_SECONDS = 30
#: Scripts that are written without spaces between words.
WITHOUT_SPACES = {"Han", "Japanese", "Thai", "Lao", "Myanmar", "Khmer"}


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


def error_rates(text: str, transcript: str, language: str = "Auto") -> tuple[float | None, float | None]:
    """Compute WER and CER: substitutions, deletions and insertions per word, or character, of the text.

    0 is perfect; above 1 is possible. None for a text without words. Spaces are left out of the CER, so that scripts
    without spaces are judged alike; in these every character counts as a word.
    """
    import jiwer

    said, heard = (normalize(one, language) for one in (text, transcript))
    if not said:
        return None, None
    characters = float(jiwer.cer(said.replace(" ", ""), heard.replace(" ", "")))
    return characters if script(text) in WITHOUT_SPACES else float(jiwer.wer(said, heard)), characters


def normalize(text: str, language: str = "Auto") -> str:
    """Normalise text for comparison: English by Whisper's rules (numbers, contractions), others by Unicode only.

    Whisper's rules for other languages remove combining vowel signs and accents, and so split words of Hindi, Yoruba
    and many others.
    """
    if language.lower() != "english":
        return _plain(text)
    return str(_english()(text)).strip() or _plain(text)


@cache
def _english() -> Any:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    rules: Any = EnglishTextNormalizer
    return rules({})  # of the table of British and American spellings, which is part of Whisper's own files


def _plain(text: str) -> str:
    """Normalise text in any language: NFKC, case-folded, no punctuation or symbols, single spaces.

    Unicode categories decide what is removed. Marks (category M: vowel signs, accents) and apostrophes inside words
    stay, since they change the word; a hyphen or dash separates words.
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


def load(settings: Settings, device: str) -> Intelligibility | None:
    """Load ASR_MODEL (a directory or a Hub repo); None if unset.

    Raises:
        BadInput: it cannot be loaded.
    """
    name = settings.asr_model
    if not name:
        return None
    by = f"{identity(name)}, jiwer {version('jiwer')}"
    return Intelligibility(by, load_transcriber(name, device, settings.token))


def load_transcriber(name: str, device: str, token: str | None = None) -> Transcriber:
    """Load the named speech recogniser through transformers' pipeline.

    The pipeline resamples; speech of over 30 s is chunked. A recogniser that needs a language detects it itself.

    Raises:
        BadInput: it cannot be loaded.
    """
    from transformers import pipeline

    with loading("ASR_MODEL", name):
        recognizer: Any = pipeline("automatic-speech-recognition", model=name, device=device, token=token)

    def transcribe(waveform: NDArray[np.float32], sample_rate: int) -> str:
        long = waveform.size > CHUNK_SECONDS * sample_rate
        options = {"chunk_length_s": CHUNK_SECONDS} if long else {}
        return str(recognizer({"raw": waveform, "sampling_rate": sample_rate}, **options)["text"]).strip()

    return transcribe
