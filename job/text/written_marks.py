"""Marks in a written text that nobody says: Markdown, HTML and SSML tags, notes. A voice would try to say them."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

#: What is taken out, and what of it is said instead; in this order.
_MARKS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\A---[ \t]*\n.*?\n---[ \t]*(?:\n|\Z)", re.DOTALL), ""),  # a page's title, author and so on
    (re.compile(r"<!--.*?-->|<\?.*?\?>", re.DOTALL), " "),
    (re.compile(r"^[ \t]*(?:```|~~~).*$", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*(?:(?:[-*_=~][ \t]*){3,})$", re.MULTILINE), ""),  # a line across the page
    (re.compile(r"</?(?:p|s|br|hr|div|h\d|speak|voice|break|paragraph|sentence)\b[^<>]*>", re.IGNORECASE), " "),
    (re.compile(r"</?[A-Za-z][\w:-]*(?:\s[^<>]*)?/?>"), ""),
    (re.compile(r"!\[[^\]\n]*\]\([^()\n]*\)|\[\^[^\]\s]+\]:?"), ""),
    (re.compile(r"\[([^\]\n]+)\]\([^()\n]*\)"), r"\1"),
    (re.compile(r"^[ \t]*#{1,6}[ \t]+(.*?)[ \t]*#*$", re.MULTILINE), r"\1"),
    (re.compile(r"^[ \t]*(?:>[ \t]?)+", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*[-*+\u2022][ \t]+(?=\S)", re.MULTILINE), ""),
    (re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*\n]*[^\s*])\1(?![\w*])"), r"\2"),
    (re.compile(r"(?<![\w_])(_{1,3})(?=[^\s_])([^_\n]*[^\s_])\1(?![\w_])"), r"\2"),
    (re.compile(r"(~~|`)(?=\S)([^`~\n]*\S)\1"), r"\2"),
    (re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,30});", re.IGNORECASE), lambda m: html.unescape(m[0])),
)


def taken_out(text: str) -> tuple[str, list[str]]:
    """Return the text as it is said, and the marks that were taken out, as they were written.

    Paragraphs stay apart. Signs that stand for words (2 * 3, a < b, snake_case) stay.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found: list[str] = []
    for pattern, instead in _MARKS:
        found += [match[0].strip() for match in pattern.finditer(text)]
        text = pattern.sub(instead, text)
    return re.sub(r"[ \t]{2,}", " ", text).strip(), found
