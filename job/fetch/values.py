"""Check single values of a row: strings, codes, ids."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from job.fetch import transcripts
from job.fetch.table import RowError
from job.fetch.transcripts import Cleaned

#: Invisible characters that `str.strip` does not treat as whitespace: zero-width space and byte order mark.
INVISIBLE = "\u200b\ufeff"

#: Kinds of the errors of `required_text` for a row that has no text at all.
NO_TEXT = ("no text", "empty text")

#: People's names that are placeholders when written otherwise, and initials that are placeholders in other fields.
_NAMES, _INITIALS = ("Nan", "Nil"), ("NA", "TBD")
#: Min Nan, spoken in Taiwan, has the code `nan`.
_MIN_NAN = ("language", "nan")

#: Prepared codes are stored as int16.
LARGEST_CODE = 32767


def required_text(value: Any) -> Cleaned:
    """Return the cleaned transcript, without surrounding whitespace and what other tools write around the words.

    Raises:
        RowError: it is missing, empty, not a string, not valid Unicode, or rejected by `transcripts.clean`.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise RowError("no text")
    if not isinstance(value, str):
        raise RowError("text is not a string", type(value).__name__)
    _check_unicode(value, "text")
    if all(unicodedata.category(character)[0] in "CZ" for character in value):  # such as directional marks
        raise RowError("empty text")
    return transcripts.clean(_strip(value))


def optional_text(value: Any, field: str) -> str | None:
    """Return a label that may be missing; numbers (speaker 7) are converted to strings.

    What programs write into empty cells (`nan`, `None`) is no label, unless it is written as the name that it also is:
    of two speakers JB and NA, none may be lost in the other's voice.

    Raises:
        RowError: it is a list or an object, or not valid Unicode.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas turns 7 into 7.0 in a column with missing values
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise RowError(f"{field} is not a string", type(value).__name__)
    _check_unicode(value, field)
    label = _strip(value)
    names = (*_NAMES, *_INITIALS) if field == "speaker" else _NAMES
    empty = transcripts.stands_for_nothing(label) and label not in names and (field, label) != _MIN_NAN
    return None if empty else label or None


def codes(value: Any) -> list[list[int]]:
    """Check `audio_codes` in the form that the vendor's encoder writes: frames, each a list of one code per codebook.

    Raises:
        RowError: it is not a list of frames, frames differ in length, or a value cannot be a code.
    """
    kind = "audio_codes are not valid"
    if not isinstance(value, list) or not value:
        raise RowError(kind, "not a list of frames")
    codebooks = len(value[0]) if isinstance(value[0], list) else 0
    for number, frame in enumerate(value, start=1):
        if not isinstance(frame, list) or not frame:
            raise RowError(kind, f"frame {number} is not a list of codes")
        if len(frame) != codebooks:
            raise RowError(kind, f"frame {number} has {len(frame)} codes and frame 1 has {codebooks}")
        for code in frame:
            if type(code) is not int or not 0 <= code <= LARGEST_CODE:
                raise RowError(kind, f"frame {number} holds {_short(code)}")
    return value


def safe_id(value: str) -> str:
    """Make `value` safe in a file name: letters, digits, `_`, `-` and `.`, at most 60 characters (240 bytes)."""
    return re.sub(r"[^\w.-]+", "_", value).strip("._-")[:60].rstrip("._-")


def _strip(value: str) -> str:
    return value.strip().strip(INVISIBLE).strip()


def _check_unicode(value: str, field: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(
            f"{field} is not valid Unicode", "half of a surrogate pair, or no UTF-8: save it as UTF-8"
        ) from None


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int with more digits than Python prints, or a deeply nested list
        text = type(value).__name__
    return text if len(text) <= 40 else f"{text[:37]}..."
