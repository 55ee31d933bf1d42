"""Count the letters of a text that are not in a transcript of it, so that no way of writing the same words counts.

Case, punctuation, spaces, accents and vowel points do not count. Numbers are compared as digits and, where there are
rules for the language, in words; where there are none, a number in digits on one side only excuses the letters of its
word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from job.text.error_rates import normalize

#: Letters of a number word that each digit may stand for ("eintausendneunhundertsiebenundachtzig" has nine a digit).
LETTERS_OF_A_DIGIT = 10


def forms(text: str, language: str, spell: Callable[[str, str], str]) -> list[str]:
    """The letters and digits of a text as they are compared: as written, and with numbers in words where that differs.

    Args:
        text: a text or a transcript.
        language: its language, by name or code.
        spell: writes the numbers of a text in a language out in words, where it can.
    """
    in_words = _letters(spell(text, language), "")  # rules of English would make digits of the words
    return list(dict.fromkeys((_letters(text, language), in_words)))


def errors(texts: list[str], transcripts: list[str]) -> tuple[int, int]:
    """Letters that differ (substituted, missing or added) and letters of the text, in the forms that differ least.

    Args:
        texts: the `forms` of the text; (0, 0) is returned if one is empty.
        transcripts: those of the transcript.
    """
    if not all(texts):
        return 0, 0
    unread = abs(_digits(texts[-1]) - _digits(transcripts[-1]))
    wrong, letters = min((_errors(one, other), len(one)) for one in texts for other in transcripts)
    return max(0, wrong - LETTERS_OF_A_DIGIT * unread), letters


def _errors(text: str, transcript: str) -> int:
    import jiwer

    if text == transcript:
        return 0
    found = jiwer.process_characters(text, transcript)
    return int(found.substitutions + found.deletions + found.insertions)


def _digits(text: str) -> int:
    return sum(map(str.isdecimal, text))


def _letters(text: str, language: str) -> str:
    parts = unicodedata.normalize("NFD", normalize(text, language))
    kept = "".join(_plain_digit(c) for c in parts if unicodedata.category(c)[0] in "LN")
    return unicodedata.normalize("NFC", kept)


def _plain_digit(character: str) -> str:
    return str(unicodedata.decimal(character)) if character.isdecimal() else character
