"""Names as people write them: misspelled variables, aliases that disagree, speakers and languages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from job.core.errors import BadInput

#: Shorter names are too like other programs' variables to be taken for a misspelling.
SHORTEST = 5

#: Language of rows that name none: the model finds out by itself.
AUTO = "auto"
#: What people write where a language is not known, or where there are several: none of these is one.
NO_LANGUAGE = ("", AUTO, "none", "null", "unknown", "undetermined", "und", "mul", "multilingual", "mis", "zxx")
#: Before a language's name: it really is a new one, however much it looks like another's.
NEW = "new:"

_LOCALE = re.compile(r"([a-z]{2,3}(?:_[A-Z]{2})?)(\.[\w-]+)?(@\w+)?")


def check(source: Mapping[str, str], groups: Sequence[tuple[str, ...]]) -> None:
    """Refuse names one typo from a known one, and aliases that disagree.

    Args:
        source: an environment.
        groups: names that mean the same, the canonical one first.

    Raises:
        BadInput: naming what was written and what was meant.
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
            raise BadInput(f"{pairs} name the same thing and disagree; keep {group[0]}")


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
    """A speaker's or language's name as the model's tables hold it: `generate` looks names up in lower case.

    In composed form (NFC), which is what keyboards type: names of folders from macOS are decomposed, and would look the
    same and never be found.
    """
    return unicodedata.normalize("NFC", name.strip().lower())


def is_locale(value: str, environ: Mapping[str, str]) -> bool:
    """Whether `LANGUAGE` is the system's (gettext's variable of that name) and not the language of the recordings.

    It is when it is a list (`en_GB:en`), has an encoding or a variant (`en_US.UTF-8`, `ca@valencia`), is `C` or
    `POSIX`, or is a locale (`nb_NO`) that the system itself is set to by LC_ALL, LC_MESSAGES or LANG.
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
