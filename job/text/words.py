"""Compare texts by their words only."""

from __future__ import annotations

import re
import unicodedata


def bare(text: str) -> str:
    """The letters, marks and digits of a text in one form, ignoring case, spaces and punctuation."""
    if text.isascii():
        return re.sub(r"[\W_]+", "", text).lower()
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] in "LMN")
