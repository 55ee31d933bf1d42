"""Exact look-ups of language codes and names in `langcodes`; `job.text.languages` does the guessing."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

from job.config.names import lookup_key

#: Codes that do not denote a single language.
_COLLECTIVE = ("art", "mis", "mul", "und", "zxx", None)
#: Shorter words occur in too many names to be significant.
SHORTEST_WORD = 4


def spelling(name: str) -> str:
    """A name normalised in case, hyphens, underscores and runs of spaces."""
    return re.sub(r"[\s_-]+", " ", lookup_key(name)).strip()


def tagged(text: str) -> str | None:
    """The code in a language tag or locale (`en`, `eng`, `pt_BR`, `zh-Hans-CN`, `nb_NO.UTF-8`); None for other text."""
    import langcodes

    tag = re.sub(r"[.@][\w-]*$", "", text.strip().lower()).replace("_", "-")
    if not re.fullmatch(r"[a-z]{2,3}(-[a-z0-9]{1,8})*", tag) or not langcodes.tag_is_valid(tag):
        return None
    return code_of(tag)


def code_of(tag: str) -> str | None:
    """The usual code of a tag's language: Mandarin (`cmn`) becomes Chinese (`zh`), Cantonese stays itself."""
    import langcodes

    code = langcodes.Language.get(langcodes.standardize_tag(tag, macro=True)).language
    return None if code in _COLLECTIVE else code


def named(text: str) -> str | None:
    """The code of a language by its exact name, in English or in any language that CLDR covers."""
    name = re.sub(r"\s+(language|lang)$", "", spelling(text))
    words = re.findall(r"[^\s(),/]+", name)
    tries = [name, " ".join(words), " ".join([*words[1:], *words[:1]])]
    if inside := re.fullmatch(r"(.+?)\s*\((.+)\)", name):  # "German (Swiss)", "English (with an accent)"
        tries += [f"{inside[2]} {inside[1]}", inside[1]]
    for one in tries:
        for language in ("en", "und"):
            found = trie(language).get(normal(one))
            code = code_of(found[0].decode()) if found else None
            if code:
                return code
    return _without_accents().get(_folded(name)) if len(name) >= SHORTEST_WORD else None


def english_name(code: str) -> str:
    """A language's name in English (`Norwegian Bokmål`), or its code if it has none."""
    import langcodes

    name = langcodes.Language.get(code).display_name()
    return code if name.startswith("Unknown") else name


def normal(name: str) -> str:
    """A name in the form of the tries' keys, without control characters and lone surrogates, which they cannot take."""
    from language_data.names import normalize_name

    return str(normalize_name("".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cs"))))


def _folded(name: str) -> str:
    """A name without accents."""
    return "".join(c for c in unicodedata.normalize("NFD", name) if not unicodedata.combining(c))


@cache
def trie(language: str, of: str = "language") -> Any:
    """A `marisa_trie.BytesTrie` of `language_data`: language names, in one language (`und`: in any) -> tags.

    `of="territory"` gives the names of countries and their codes.

    `langcodes.find` also accepts texts that only begin with a name ("Englishy"); the trie is looked up exactly.
    """
    from language_data.names import load_trie
    from language_data.util import data_filename

    return load_trie(data_filename(f"trie/{language}/name_to_{of}.marisa"))


@cache
def _without_accents() -> dict[str, str]:
    """Accented names with the accents removed -> code, unless the result is ambiguous."""
    found: dict[str, set[str | None]] = {}
    for language in ("en", "und"):
        for name, tag in trie(language).items():
            if not name.isascii() and (folded := _folded(name)) != name:
                found.setdefault(folded, set()).add(_language_of(tag.decode()))
    return {name: code for name, (code, *others) in found.items() if not others and code}


@cache
def _language_of(tag: str) -> str | None:
    return code_of(tag)


@cache
def well_known() -> dict[str, str]:
    """English names of the languages that CLDR describes: candidates for a misspelled name."""
    from language_data.name_data import LANGUAGES_WITH_NAME_DATA

    names = {name: tag.decode() for name, tag in trie("en").items()}
    return {name: name for name, tag in names.items() if tag in LANGUAGES_WITH_NAME_DATA}
