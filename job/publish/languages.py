"""ISO 639 codes of languages, for the card: the Hub takes codes only."""

from __future__ import annotations

import re

from job.names import NO_LANGUAGE

_TABLE = """
    af afrikaans, sq albanian, am amharic, ar arabic, hy armenian, as assamese, az azerbaijani, bm bambara, ba bashkir,
    eu basque, be belarusian, bn bengali, bs bosnian, br breton, bg bulgarian, my burmese, yue cantonese, ca catalan,
    ceb cebuano, zh chinese, hr croatian, cs czech, da danish, nl dutch, en english, eo esperanto, et estonian,
    ee ewe, fo faroese, fil filipino, fi finnish, fr french, fy frisian, ff fula, gl galician, lg ganda, ka georgian,
    de german, el greek, gn guarani, gu gujarati, ht haitian creole, ha hausa, haw hawaiian, he hebrew, hi hindi,
    hu hungarian, is icelandic, ig igbo, id indonesian, ga irish, it italian, ja japanese, jv javanese, kn kannada,
    kk kazakh, km khmer, rw kinyarwanda, ko korean, ku kurdish, ky kyrgyz, lo lao, la latin, lv latvian, ln lingala,
    lt lithuanian, lb luxembourgish, mk macedonian, mg malagasy, ms malay, ml malayalam, mt maltese, mi maori,
    mr marathi, mn mongolian, ne nepali, se northern sami, no norwegian, nb norwegian bokmål, nn norwegian nynorsk,
    ny nyanja, oc occitan, or odia, om oromo, ps pashto, fa persian, pl polish, pt portuguese, pa punjabi, qu quechua,
    ro romanian, ru russian, sa sanskrit, gd scottish gaelic, sr serbian, sn shona, sd sindhi, si sinhala, sk slovak,
    sl slovenian, so somali, st sotho, es spanish, su sundanese, sw swahili, sv swedish, tl tagalog, tg tajik,
    ta tamil, tt tatar, te telugu, th thai, bo tibetan, ti tigrinya, ts tsonga, tn tswana, tr turkish, tk turkmen,
    tw twi, uk ukrainian, ur urdu, ug uyghur, uz uzbek, vi vietnamese, cy welsh, wo wolof, xh xhosa, yi yiddish,
    yo yoruba, zu zulu,
    nb bokmål, nb bokmal, nn nynorsk, zh mandarin, fa farsi, el modern greek, se sami, zh beijing dialect,
    zh sichuan dialect, my myanmar, ny chichewa, pa panjabi, si sinhalese, ca valencian, es castilian
"""
#: Language's name in English, lower case -> ISO 639 code.
CODES: dict[str, str] = {
    name.strip(): code
    for code, name in (entry.strip().split(" ", 1) for entry in " ".join(_TABLE.split()).split(",") if entry.strip())
}


def code(name: str) -> str | None:
    """The ISO 639 code of a language given by its English name (`Norwegian`), code (`no`) or locale (`nb_NO`).

    None when it names no language or one that is not in the table.
    """
    key = re.sub(r"[\s_-]+", " ", name).strip().lower()
    if key in NO_LANGUAGE:
        return None
    if key in CODES:
        return CODES[key]
    known = set(CODES.values())
    first = key.split(" ")[0]
    if first in known:
        return first
    if key.endswith(" dialect") or " (" in key:
        return CODES.get(first)
    return None
