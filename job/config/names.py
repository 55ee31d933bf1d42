"""Checks and normal forms of names: misspelled variables, conflicting aliases, speakers and languages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from job.core.errors import BadInput

#: Shorter names are too similar to other programs' variables to count as misspellings.
SHORTEST = 5

#: Language of rows without one: the model detects it.
AUTO = "auto"
#: Placeholders for an unknown language or several languages; none of these is a language.
NO_LANGUAGE = ("", AUTO, "none", "null", "unknown", "undetermined", "und", "mul", "multilingual", "mis", "zxx")
#: Prefix of a language name that declares a new language, however similar it looks to a known one.
NEW = "new:"

_LOCALE = re.compile(r"([a-z]{2,3}(?:_[A-Z]{2})?)(\.[\w-]+)?(@\w+)?")


def check(source: Mapping[str, str], groups: Sequence[tuple[str, ...]]) -> None:
    """Refuse names one typo away from a known one, and aliases with different values.

    Args:
        source: an environment.
        groups: names of the same variable, the canonical one first.

    Raises:
        BadInput: naming what was written and what was probably meant.
    """
    known = {name for group in groups for name in group}
    long_enough = sorted(name for name in known if len(name) >= SHORTEST)
    for name in source:
        if name in known or len(name) < SHORTEST:
            continue
        near = next((candidate for candidate in long_enough if one_typo(name.upper(), candidate)), None)
        if near:
            raise BadInput(f"{name} is not a variable of this job; did you mean {near}? Rename it or unset it")
    for group in groups:
        given = {name: source[name].strip() for name in group if source.get(name, "").strip()}
        if len(set(given.values())) > 1:
            pairs = " and ".join(f"{name}={value!r}" for name, value in given.items())
            raise BadInput(f"{pairs} are names of the same variable with different values; keep only {group[0]}")


def one_typo(a: str, b: str) -> bool:
    """Whether one insertion, deletion, substitution or swap of neighbours (or nothing) turns `a` into `b`."""
    if a == b:
        return True
    if abs(len(a) - len(b)) > 1:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest_a, rest_b = a[start:], b[start:]
    swapped = rest_a[1::-1] + rest_a[2:] == rest_b
    return swapped or rest_a[1:] == rest_b[1:] or rest_a[1:] == rest_b or rest_a == rest_b[1:]


def lookup_key(name: str) -> str:
    """A speaker's or language's name as stored in the model's tables: lower case, as `generate` looks names up.

    In composed form (NFC), which is what keyboards produce: folder names from macOS are decomposed, so they would look
    the same but never be found.
    """
    return unicodedata.normalize("NFC", name.strip().lower())


def is_locale(value: str, environ: Mapping[str, str]) -> bool:
    """Whether `LANGUAGE` is the system's locale (gettext's variable of that name), not the language of the recordings.

    True for a list (`en_GB:en`), an encoding or a variant (`en_US.UTF-8`, `ca@valencia`), `C` or `POSIX`, and a locale
    (`nb_NO`) that LC_ALL, LC_MESSAGES or LANG also has.
    """
    if value.startswith(NEW):
        return False
    if re.match(r"(C|POSIX)(\.|:|$)", value):
        return True
    found = [_LOCALE.fullmatch(part) for part in value.split(":") if part]
    if not found or not all(found):
        return False
    if ":" in value or any(match and (match[2] or match[3]) for match in found):
        return True
    of_system = next((environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environ.get(name)), "")
    return "_" in value and value == re.sub(r"[.@].*", "", of_system)
