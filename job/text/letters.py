"""Estimate how long a text takes to speak, in letters of Latin script, whatever script the text is in.

A Chinese character is a syllable and takes as long as about three letters of English; a digit is read out as a word.
The weights are derived from syllables per second in several languages (Pellegrino, Coupé and Marsico, "A cross-language
perspective on speech information rate", 2011). They need only be right to within a third: the rows of a corpus are
compared with each other, not with the weights.
"""

from __future__ import annotations

import unicodedata
from collections import Counter

#: Number of Latin letters that take as long to speak as one letter of the script. Other scripts: 1.
SCRIPT_WEIGHTS: dict[str, float] = {
    # One character is a syllable or (kana) a mora.
    "CJK": 3.3,
    "HIRAGANA": 2.2,
    "KATAKANA": 2.2,
    "HANGUL": 2.5,
    "YI": 2.5,
    "ETHIOPIC": 2.2,
    "CHEROKEE": 2.0,
    "CANADIAN": 2.0,
    "VAI": 2.0,
    "BOPOMOFO": 1.2,
    # A consonant includes its vowel; vowel signs change that vowel and add nothing.
    **dict.fromkeys(("DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL", "TELUGU", "KANNADA"), 2.2),
    **dict.fromkeys(("MALAYALAM", "SINHALA", "MYANMAR", "KHMER", "JAVANESE", "BALINESE", "SUNDANESE"), 2.2),
    "THAI": 1.5,
    "LAO": 1.5,
    # Short vowels are spoken but not written.
    "ARABIC": 1.6,
    "HEBREW": 1.6,
    "SYRIAC": 1.6,
}
#: A digit is a word ("seven"); a zero is often one with the digit before it ("forty").
DIGIT, ZERO = 4.0, 2.0
#: Other numerals, such as Roman ones of one character.
NUMERAL = 5.0
#: Signs that are read out as a word. Currency signs count as `MONEY`.
SIGNS = {"%": 6.0, "‰": 6.0, "&": 3.0, "@": 2.0, "+": 4.0, "=": 5.0, "×": 5.0, "÷": 6.0, "±": 8.0, "°": 5.0}
MONEY = 5.0
#: Weight of a sign that removes the vowel of the preceding letter (virama, combining class 9), in scripts whose letters
#: include a vowel.
NO_VOWEL = -1.4
#: Combining class of such signs.
_VIRAMA = 9
#: Small kana modify the preceding mora; the long-vowel mark is a mora.
_SMALL_KANA, _LONG_VOWEL = 0.6, 1.8


def letters(text: str) -> float:
    """The spoken length of a text in letters of Latin script; spaces, punctuation and emoji count as 0."""
    return max(0.0, sum(map(_weights.__getitem__, unicodedata.normalize("NFKC", text))))


def script(text: str) -> str:
    """The script of most letters of a text, as in the characters' Unicode names ("Latin", "Cyrillic").

    Any text with kana is "Japanese". A text without letters has the script "".
    """
    counts = Counter(map(_scripts.__getitem__, unicodedata.normalize("NFKC", text)))
    counts.pop("", None)
    if not counts:
        return ""
    if counts["Hiragana"] or counts["Katakana"]:
        return "Japanese"
    return min(counts, key=lambda name: (-counts[name], name))


class _Weights(dict[str, float]):
    """Cache: character -> its weight."""

    def __missing__(self, character: str) -> float:
        self[character] = weight = _weight(character)
        return weight


class _Scripts(dict[str, str]):
    """Cache: character -> the script of a letter, or ""."""

    def __missing__(self, character: str) -> str:
        name = _script_of(character) if unicodedata.category(character).startswith("L") else ""
        self[character] = name = "Han" if name == "CJK" else name.capitalize()
        return name


_weights, _scripts = _Weights(), _Scripts()


def _script_of(character: str) -> str:
    """The first word of a character's name, which is its script."""
    return unicodedata.name(character, "").replace("-", " ").split(" ")[0]


def _weight(character: str) -> float:
    kind = unicodedata.category(character)
    if character in SIGNS:
        return SIGNS[character]
    if kind == "Nd":
        return DIGIT if unicodedata.digit(character, 0) else ZERO
    if kind[0] == "N":
        return NUMERAL
    if kind == "Sc":
        return MONEY
    if kind[0] == "M":  # vowel signs are included in their letter's weight, accents are not sounds
        return NO_VOWEL if unicodedata.combining(character) == _VIRAMA else 0.0
    if kind[0] != "L":
        return 0.0
    name = unicodedata.name(character, "")
    if "PROLONGED SOUND MARK" in name:
        return _LONG_VOWEL
    if name.startswith(("HIRAGANA LETTER SMALL", "KATAKANA LETTER SMALL")) and "SMALL TU" not in name:
        return _SMALL_KANA
    return SCRIPT_WEIGHTS.get(_script_of(character), 1.0)
