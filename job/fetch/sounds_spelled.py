"""Tell a text that spells sounds (IPA, ARPAbet, pinyin) from one that has words."""

from __future__ import annotations

import re

#: What such texts are called in messages.
PHONEMES = "phonemes"

#: Stress before a sound, and letters of the IPA that hardly any language is written with. The mark of length is none of
#: them (Mohawk), nor ``ɡ``, which some keyboards give for g, nor a stress mark after a syllable (tones of Chinantec).
_IPA = re.compile(r"[ˈˌ](?=\w)|[ɐɒɜɝɚɫɹɻɾʁʐʑʂɕʝʎʏʍɸɱɰ]")
#: Letters of the IPA that some languages are written with, too: a sign of phonemes only where letters stand alone.
_SHARED_IPA = re.compile(r"[ðŋəɛɔɑɪʊʌʒʃθɣɲʔβχ]")
#: A sound in ARPAbet, one with its stress (`AH0`), and a syllable of pinyin with its tone (`guang3`). Other languages
#: (Hokkien, Mixtec) are written with numbers for tones: pinyin is told by the Chinese characters that it goes with.
_SOUND, _STRESSED = re.compile(r"[A-Z]{1,2}[0-2]?"), re.compile(r"[A-Z]{2}[0-2]")
_PINYIN, _CHINESE = re.compile(r"[a-zü]{1,6}:?[1-5]"), re.compile(r"[\u4e00-\u9fff]")
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
    return pinyin >= max(_LEAST - 1, _PINYIN_SHARE * len(words)) and bool(_CHINESE.search(text))
