"""Word and character error rates of a transcript against a text, ignoring case, punctuation and encoding."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

from job.text.letters import script

#: Scripts that are written without spaces between words.
WITHOUT_SPACES = {"Han", "Japanese", "Thai", "Lao", "Myanmar", "Khmer"}


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
