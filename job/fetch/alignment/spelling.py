"""Spell a text in the characters of a CTC model: in its own letters, else romanised, else as a wildcard."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

#: Stands for characters that the model has no token for, such as digits that no rule reads out.
WILDCARD = -1
#: Letters of Latin script that are no base letter with an accent.
_LATIN = {
    "ß": "ss",
    "æ": "ae",
    "œ": "oe",
    "ø": "o",
    "đ": "d",
    "ð": "d",
    "þ": "th",
    "ł": "l",
    "ı": "i",
    "ħ": "h",
    "ŋ": "ng",
    "ə": "e",
    "ɓ": "b",
    "ɗ": "d",
    "ƙ": "k",
    "ƴ": "y",
    "ɔ": "o",
    "ɛ": "e",
}
#: Each Cyrillic and Greek letter, followed by how it is written in Latin ones; the signs ъ and ь are silent.
_PAIRS = (
    "аa бb вv гg дd еe жzh зz иi йy кk лl мm нn оo пp рr сs тt уu фf хh цts чch шsh щshch ъ ыy ь эe юyu яya "
    "іi їi єe ґg ўu јj љlj њnj ћc ђdj џdz ѓg ќk ѕdz "
    "αa βv γg δd εe ζz ηi θth ιi κk λl μm νn ξx οo πp ρr σs ςs τt υy φf χch ψps ωo"
)
_ROMAN = _LATIN | {pair[0]: pair[1:] for pair in _PAIRS.split()}
#: Scripts whose Unicode names say how a character sounds: `HANGUL SYLLABLE GAG`, `HIRAGANA LETTER KA`.
_NAMED = re.compile(
    r"(?:HANGUL SYLLABLE|(?:HIRAGANA|KATAKANA) LETTER(?: SMALL)?|ETHIOPIC SYLLABLE(?: GLOTTAL)?) (\w+)$"
)
_APOSTROPHE = re.compile(r"(?<=[^\W_])['’ʼ](?=[^\W_])")


class Spelling:
    """The vocabulary of a CTC model.

    Attributes:
        blank: the token for no character.
        delimiter: the token between words; None if the model has none.
        characters: token -> its character in lower case, for those that are one character.
    """

    def __init__(self, vocabulary: Mapping[str, int], pad: str | None, delimiter: str | None) -> None:
        """Sort out a tokenizer's vocabulary.

        Raises:
            ValueError: it is not one of characters.
        """
        blank = vocabulary.get("<blank>", vocabulary.get(pad or "<pad>"))
        if blank is None:
            raise ValueError("its vocabulary has no blank token")
        self.blank = blank
        self.delimiter = vocabulary.get(delimiter or "|")
        letters = {name: token for name, token in vocabulary.items() if len(name) == 1 and token != self.delimiter}
        own = {name: token for name, token in letters.items() if name == "'" or unicodedata.category(name)[0] in "LMN"}
        if sum(name.isalpha() for name in own) < 5:
            raise ValueError("its vocabulary is not one of letters")
        self._own = own
        self.characters = {token: name.lower() for name, token in own.items()}

    def words(self, text: str) -> list[list[int]]:
        """Return the tokens of each word of a text; punctuation has none."""
        plain = unicodedata.normalize("NFC", text)
        plain = _APOSTROPHE.sub("\0", plain)
        spelled = (self._word(word) for word in plain.split())
        return [word for word in spelled if word]

    def _word(self, word: str) -> list[int]:
        found: list[int] = []
        for character in word:
            if character == "\0":
                found += [self._own["'"]] if "'" in self._own else []
            elif unicodedata.category(character)[0] in "LMNS":
                tokens = self._character(character)
                if tokens is not None:
                    found += tokens
                elif unicodedata.category(character)[0] != "M" and found[-1:] != [WILDCARD]:
                    found.append(WILDCARD)
        return found

    def _character(self, character: str) -> list[int] | None:
        """Return a character's tokens; None if there is no way to spell it."""
        for form in (character, character.lower(), character.upper()):
            if form in self._own:
                return [self._own[form]]
        roman = romanised(character)
        if roman is None:
            return None
        forms = [next((f for f in (c, c.upper()) if f in self._own), None) for c in roman]
        return None if None in forms else [self._own[form] for form in forms if form is not None]


def romanised(character: str) -> str | None:
    """Return a letter in unaccented Latin letters; empty for a sign without a sound, None if it is not known."""
    found = ""
    for part in unicodedata.normalize("NFKD", character.lower()) if not _NAMED.match(_name(character)) else character:
        if part.isascii() and part.isalpha():
            found += part
        elif part in _ROMAN:
            found += _ROMAN[part]
        elif (named := _NAMED.match(_name(part))) is not None:
            found += named[1].lower()
        elif unicodedata.category(part)[0] != "M":
            return None
    return found


def _name(character: str) -> str:
    return unicodedata.name(character, "")
