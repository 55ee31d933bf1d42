"""Tell a text that spells sounds (IPA, ARPAbet, pinyin) from one that has words."""

from __future__ import annotations

import re

#: What such texts are called in messages.
PHONEMES = "phonemes"

#: Marks of stress and length, and letters of the IPA that no language is written with.
_IPA = re.compile(r"[ˈˌːˑɐɒɜɝɚɫɹɻɾʁʐʑʂɕʝʎʏʍɸɱɰɡ]")
#: Letters of the IPA that some languages are written with, too: a sign of phonemes only where letters stand alone.
_SHARED_IPA = re.compile(r"[ðŋəɛɔɑɪʊʌʒʃθɣɲʔβχ]")
#: A sound in ARPAbet, one with its stress (`AH0`), and a syllable of pinyin with its tone (`guang3`).
_SOUND, _STRESSED = re.compile(r"[A-Z]{1,2}[0-2]?"), re.compile(r"[A-Z]{2}[0-2]")
_PINYIN = re.compile(r"[a-zü]{1,6}:?[1-5]")
#: The least number of words of which something can be told, and the shares of them that must spell sounds.
_LEAST, _IPA_SHARE, _ALONE_SHARE, _PINYIN_SHARE = 4, 0.25, 0.7, 0.4


def spells_sounds(text: str) -> bool:
    """Whether a text is mostly in phonemes, or has pinyin beside its characters.

    A sentence that quotes a pronunciation or names two motorways has other words besides.
    """
    words = [word for word in text.split() if any(map(str.isalnum, word))]
    ipa = sum(bool(_IPA.search(word)) for word in words)
    if ipa and ipa >= _IPA_SHARE * len(words):
        return True
    if len(words) < _LEAST:
        return False
    alone = sum(len(word) == 1 for word in words) >= max(_LEAST, _ALONE_SHARE * len(words))
    if alone and _SHARED_IPA.search(text):
        return True
    if all(map(_SOUND.fullmatch, words)) and any(map(_STRESSED.fullmatch, words)):
        return True
    pinyin = sum(bool(_PINYIN.fullmatch(word)) for word in words)
    return pinyin >= max(_LEAST - 1, _PINYIN_SHARE * len(words))
