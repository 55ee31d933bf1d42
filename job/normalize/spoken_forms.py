"""Tables of spoken forms by language. Anything not listed in them is left as written."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

#: Kinds of text with digits that are left as written: category, examples, reason.
LEFT_ALONE: tuple[tuple[str, str, str], ...] = (
    ("mixed", "A320, mp3, 4K, 5-10, 1/2, 3:2, 2.0.1, 1990s", "part numbers, ranges, fractions, ratios and versions"),
    ("time", "14:30", "a time, a score or a verse, and read in many ways"),
    ("date", "03/05/2024, 3. Mai", "which number is the month, and in which case the day is said"),
    ("zeros", "007, 0612345678", "a code or a telephone number"),
    ("neighbours", "22 34 56 78", "numbers side by side: a telephone number or a list"),
    ("long", "4006381333931", "more digits than a number has that is said: an account, a barcode"),
    ("separators", "3.14 in German, 1,5 in English", "a decimal by another language's rules, or a grouping"),
    ("inflected", "1 in German, 2 in Russian, 1984 in Polish", "its form follows the word that it belongs to"),
)


@dataclass(frozen=True)
class Rules:
    """How a language spells out numbers.

    Attributes:
        number: num2words' code of the language.
        point: decimal separator, and the word for it.
        group: thousands separators (a space stands for every kind of space).
        minus: word before negative numbers.
        percent: phrase for %; `{}` in it is the number.
        one: word for "1" before a unit; empty if it is not known.
        years: whether 1100 to 1999 are read in hundreds.
        inflected: numbers whose form depends on the word they belong to. `inflected_ends`: last digits of such numbers.
        inflected_years: whether years are read as inflected ordinals.
        units: symbol -> (singular, plural).
        money: symbol -> (singular, plural).
        short: abbreviation with its full stop -> words.
    """

    number: str
    point: tuple[str, str]
    group: str
    minus: str
    percent: str
    one: str = ""
    years: bool = False
    inflected: tuple[int, ...] = (1,)
    inflected_ends: tuple[int, ...] = ()
    inflected_years: bool = False
    units: dict[str, tuple[str, str]] = field(default_factory=dict)
    money: dict[str, tuple[str, str]] = field(default_factory=dict)
    short: dict[str, str] = field(default_factory=dict)


def _same(**words: str) -> dict[str, tuple[str, str]]:
    return {sign: (word, word) for sign, word in words.items()}


_NORDIC = _same(km="kilometer", cm="centimeter", mm="millimeter", kg="kilo")
_CROWN = {"kr": ("krone", "kroner"), "$": ("dollar", "dollar"), "€": ("euro", "euro"), "£": ("pund", "pund")}
_NORWEGIAN = Rules(
    *("no", (",", "komma"), " .", "minus", "{} prosent", "en", True),
    units=_NORDIC,
    money=_CROWN,
    short={
        "f.eks.": "for eksempel",
        "bl.a.": "blant annet",
        "osv.": "og så videre",
        "dvs.": "det vil si",
        "ca.": "cirka",
    },
)

#: ISO 639 code -> rules. Chinese, Japanese, Korean and Hindi have none, because of counter words and for lack of data.
LANGUAGES: dict[str, Rules] = {
    "en": Rules(
        *("en", (".", "point"), ",", "minus", "{} percent", "one", True, ()),
        units={
            "km": ("kilometer", "kilometers"),
            "cm": ("centimeter", "centimeters"),
            "mm": ("millimeter", "millimeters"),
            "kg": ("kilogram", "kilograms"),
        },
        money={"$": ("dollar", "dollars"), "€": ("euro", "euros"), "£": ("pound", "pounds")},
        short={"Mr.": "Mister", "Mrs.": "Missus", "etc.": "et cetera", "vs.": "versus", "e.g.": "for example"},
    ),
    "de": Rules(
        *("de", (",", "Komma"), ".", "minus", "{} Prozent", "ein", True),
        units=_same(km="Kilometer", cm="Zentimeter", mm="Millimeter", kg="Kilogramm"),
        money=_same(**{"€": "Euro", "$": "Dollar", "£": "Pfund"}),
        short={"z.B.": "zum Beispiel", "d.h.": "das heißt", "usw.": "und so weiter", "bzw.": "beziehungsweise"}
        | {"Dr.": "Doktor", "u.a.": "unter anderem"},
    ),
    "fr": Rules(
        *("fr", (",", "virgule"), " ", "moins", "{} pour cent", "un"),
        units={
            "km": ("kilomètre", "kilomètres"),
            "cm": ("centimètre", "centimètres"),
            "mm": ("millimètre", "millimètres"),
            "kg": ("kilo", "kilos"),
        },
        money={"€": ("euro", "euros"), "$": ("dollar", "dollars")},
        short={"etc.": "et cetera"},
    ),
    "es": Rules(
        *("es", (",", "coma"), ".", "menos", "{} por ciento", "un", False, (), (1,)),
        units={
            "km": ("kilómetro", "kilómetros"),
            "cm": ("centímetro", "centímetros"),
            "mm": ("milímetro", "milímetros"),
            "kg": ("kilo", "kilos"),
        },
        money={"€": ("euro", "euros"), "$": ("dólar", "dólares")},
        short={"etc.": "etcétera", "Sr.": "señor", "Sra.": "señora"},
    ),
    "it": Rules(
        *("it", (",", "virgola"), ".", "meno", "{} per cento", "un"),
        units={
            "km": ("chilometro", "chilometri"),
            "cm": ("centimetro", "centimetri"),
            "mm": ("millimetro", "millimetri"),
            "kg": ("chilo", "chili"),
        },
        money={"€": ("euro", "euro"), "$": ("dollaro", "dollari")},
        short={"ecc.": "eccetera"},
    ),
    "pt": Rules(
        *("pt", (",", "vírgula"), ".", "menos", "{} por cento", "um", False, (), (1, 2)),
        units={"km": ("quilômetro", "quilômetros"), "kg": ("quilo", "quilos")},
        money={"€": ("euro", "euros"), "$": ("dólar", "dólares")},
        short={"etc.": "et cetera"},
    ),
    "nb": _NORWEGIAN,
    "no": _NORWEGIAN,
    "nn": Rules(*("no", (",", "komma"), " .", "minus", "{} prosent", "ein", True), units=_NORDIC, money=_CROWN),
    "da": Rules(
        *("da", (",", "komma"), ".", "minus", "{} procent", "en", True),
        units=_NORDIC,
        money=_CROWN,
        short={"f.eks.": "for eksempel", "bl.a.": "blandt andet", "osv.": "og så videre", "dvs.": "det vil sige"},
    ),
    "sv": Rules(
        *("sv", (",", "komma"), " ", "minus", "{} procent", "en", True),
        units=_NORDIC,
        money={"kr": ("krona", "kronor"), "$": ("dollar", "dollar"), "€": ("euro", "euro")},
        short={"t.ex.": "till exempel", "bl.a.": "bland annat", "osv.": "och så vidare", "dvs.": "det vill säga"},
    ),
    "nl": Rules(
        *("nl", (",", "komma"), ".", "min", "{} procent", "één", True),
        units=_same(km="kilometer", cm="centimeter", mm="millimeter", kg="kilo"),
        money=_same(**{"€": "euro", "$": "dollar", "£": "pond"}),
        short={"bijv.": "bijvoorbeeld", "enz.": "enzovoort", "d.w.z.": "dat wil zeggen"},
    ),
    "fi": Rules(*("fi", (",", "pilkku"), " ", "miinus", "{} prosenttia")),
    "tr": Rules(
        *("tr", (",", "virgül"), ".", "eksi", "yüzde {}", "bir", False, ()),
        units=_same(km="kilometre", cm="santimetre", mm="milimetre", kg="kilo"),
        money=_same(**{"₺": "lira", "$": "dolar", "€": "avro"}),
    ),
    "pl": Rules(
        *("pl", (",", "przecinek"), " ", "minus", "{} procent", "", False, (1, 2), (), True),
        short={"np.": "na przykład", "itd.": "i tak dalej", "tzn.": "to znaczy", "m.in.": "między innymi"},
    ),
    "cs": Rules(*("cs", (",", "čárka"), " ", "minus", "{} procent", "", False, (1, 2, 3, 4), (), True)),
    "ru": Rules(
        *("ru", (",", "запятая"), " ", "минус", "", "", False, (1, 2), (1, 2), True),
        short={"т.е.": "то есть", "т.д.": "так далее", "т.п.": "тому подобное"},
    ),
    "uk": Rules(*("uk", (",", "кома"), " ", "мінус", "", "", False, (1, 2), (1, 2), True)),
    "ar": Rules(*("ar", ("٫", "فاصلة"), "٬", "سالب", "{} بالمئة", "", False, (1, 2))),
}

_MONTHS = {
    "en": "January February March April May June July August September October November December "
    "Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec",
    "de": "Januar Jänner Februar März April Mai Juni Juli August September Oktober November Dezember",
    "nb": "januar februar mars april mai juni juli august september oktober november desember",
    "da": "januar februar marts april maj juni juli august september oktober november december",
    "sv": "januari februari mars april maj juni juli augusti september oktober november december",
    "fi": "tammikuuta helmikuuta maaliskuuta huhtikuuta toukokuuta kesäkuuta "
    "heinäkuuta elokuuta syyskuuta lokakuuta marraskuuta joulukuuta",
    "pl": "stycznia lutego marca kwietnia maja czerwca lipca sierpnia września października listopada grudnia",
    "cs": "ledna února března dubna května června července srpna září října listopadu prosince",
    "ru": "января февраля марта апреля мая июня июля августа сентября октября ноября декабря",
    "uk": "січня лютого березня квітня травня червня липня серпня вересня жовтня листопада грудня",
}

#: Code of a language in which the day of a month is an ordinal number -> its months as they stand beside a day.
MONTHS = {code: frozenset(names.split()) for code, names in _MONTHS.items()}
MONTHS |= {"no": MONTHS["nb"], "nn": MONTHS["nb"]}

#: Numerals that may follow an amount of money (`$5 million`), casefolded: of English, and of any language.
LARGE_ENGLISH = frozenset({"hundred", "thousand", "million", "billion", "trillion"})
LARGE = re.compile(
    r"(?:mio|mrd|mln|mld|bn|mill|mille|mil|mila|tausend|duizend|tusen|tusind|bin)\.?|(?:m|b|tr)il(?:l?[ijoó]|h)\w+"
)

#: Sounds that transcribers put in brackets or between asterisks, casefolded.
NOISES = re.compile(
    "laughter|laugh(?:s|ing)?|chuckl(?:e|es|ing)|giggl(?:e|es|ing)|applause|clapping|cheering|cough(?:s|ing)?"
    "|sneez(?:e|es|ing)|sigh(?:s|ing)?|breath(?:s|es|ing|e)?|inhal(?:e|es)|exhal(?:e|es)|gasps?|noises?|music|silence"
    "|pause|hesitation|clicks?|sniff(?:s|ing)?|lipsmack|beep|static|background|um|uh"
    "|latter|ler|hoste|hoster|musikk|stille|pust|applaus|støy|lachen|lacht|gelächter|husten|hustet|räuspern|musik"
    "|seufzt|rauschen|rires?|toux|soupir|musique|applaudissements|bruit|risas?|tos|suspiro|música|aplausos|ruido"
    "|skratt|hosta|suckar|grin|gelach|hoest|muziek|stilte|śmiech|muzyka|kaszel|oklaski|смех|музыка|кашель"
    "|аплодисменты|risate|applausi|musica|rumore"
)
