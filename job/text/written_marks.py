"""Marks in a written text that nobody says: Markdown, HTML and SSML tags, notes. A voice would try to say them."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

#: Between the parts of a tag: no blank line, so that a tag never reaches into another paragraph.
_GAP = r"(?:[ \t]{1,50}|[ \t]{0,50}\n[ \t]{0,50})"
#: The rest of a tag after its name. Words without "=" are no attributes: `a <b and c> d` compares.
_REST = (
    rf"(?:{_GAP}[A-Za-z_:][\w:.-]{{0,100}}{_GAP}?={_GAP}?"
    rf"""(?:"[^"\n]{{0,500}}"|'[^'\n]{{0,500}}'|[^\s"'<>=`]{{1,500}})){{0,50}}{_GAP}?/?>"""
)
#: A line of a page's title, author and so on after the first one.
_ABOUT = r"(?:[\w.-]+[ \t]*:(?:[ \t].*)?|-[ \t].*|#.*|[ \t].*|)\n"

#: What is taken out, and what of it is said instead; in this order. No pattern reads on past another opening mark, or
#: further than a bound: the time stays in proportion to the length also where nothing is closed.
_MARKS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(rf"\A---[ \t]*\n(?=[\w.-]+[ \t]*:(?:[ \t]|\n))(?:{_ABOUT})+---[ \t]*(?:\n|\Z)"), ""),
    (re.compile(r"<!--(?:(?!<!--).)*?-->|<\?[A-Za-z](?:(?!<\?).)*?\?>", re.DOTALL), " "),
    (re.compile(r"^[ \t]*(?:`{3,}|~{3,})[ \t]*[\w.+-]*[ \t]*$", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*(?:(?:[-*_=~][ \t]*){3,})$", re.MULTILINE), ""),  # a line across the page
    (re.compile(rf"</?(?:p|s|br|hr|div|h\d|speak|voice|break|paragraph|sentence){_REST}", re.IGNORECASE), " "),
    (re.compile(rf"</?[A-Za-z][\w:-]{{0,100}}{_REST}"), ""),
    (re.compile(r"!\[[^\[\]\n]*\]\([^()\n]*\)|\[\^[^\[\]\s]+\]:?"), ""),
    (re.compile(r"\[([^\[\]\n]+)\]\([^()\n]*\)"), r"\1"),
    (re.compile(r"^[ \t]*#{1,6}[ \t]{1,20}(.*?)[ \t]{0,20}#{0,20}$", re.MULTILINE), r"\1"),
    # a sign before a number is said: "> 5 people", "- 20 degrees"
    (re.compile(r"^[ \t]*(?:>[ \t]?)+(?![ \t]*[\d>])", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*(?:[*\u2022][ \t]+(?=\S)|[-+][ \t]+(?=[^\s\d]))", re.MULTILINE), ""),
    (re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*\n]*[^\s*])\1(?![\w*])"), r"\2"),
    (re.compile(r"(?<![\w_])(_{1,3})(?=[^\s_])([^_\n]*[^\s_])\1(?![\w_])"), r"\2"),
    (re.compile(r"~~(?=\S)([^`~\n]*\S)~~"), r"\1"),
    (re.compile(r"(?<!\w)`(?=\S)([^`~\n]*\S)`(?!\w)"), r"\1"),  # within a word it is an apostrophe
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
