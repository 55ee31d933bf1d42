"""Split plain text into sentences, each a part of the text as it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: Punctuation that ends a sentence, and what may follow it: quotation marks and brackets; for use in `[...]`.
ENDERS = ".!?…。！？｡؟۔।॥։።"
CLOSERS = "\"'”’»)\\]」』"
#: Enders after which no space is written.
_FULL_WIDTH = "。！？｡"
_END = re.compile(rf"[{ENDERS}]+[{CLOSERS}]*(?=\s)|[{_FULL_WIDTH}]+[{CLOSERS}]*")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")
#: An initial or an abbreviation of one letter before its full stop: `J. S. Bach`, `z. B.`.
_INITIAL = re.compile(r"(?:^|[\s.(\"'„“‘«])[^\W\d_]\.$")
_WORD = re.compile(r"\S+")


def split(text: str) -> list[tuple[int, int]]:
    """Return the start and end of each sentence in a text, in order; between them there is only whitespace.

    A blank line ends a sentence, as does a line that is shorter than it had to be (a heading, verse): the next word
    would have fitted. Other line breaks were made by a program that wraps lines.
    """
    found = []
    for first, last in _blocks(text):
        start = first
        for end in _ends(text, first, last):
            found.append((start, end))
            start = end
        found.append((start, last))
    return [trimmed for start, end in found if (trimmed := _trimmed(text, start, end)) is not None]


def _ends(text: str, first: int, last: int) -> Iterator[int]:
    """Yield the places within a block at which a sentence ends."""
    for match in _END.finditer(text, first, last):
        before, behind = text[max(first, match.start() - 3) : match.start() + 1], text[match.end() : last].lstrip()
        opening = behind.lstrip("\"'„“‘«»([¿¡—–-… ")
        if opening[:1].islower() or (text[match.start()] == "." and _INITIAL.search(before)):
            continue  # an abbreviation, or the words that tell who asked
        yield match.end()


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Yield the parts of a text between line breaks that mean something."""
    lines = [(m.start(), m.end()) for m in _LINE.finditer(text) if m.end() > m.start()]
    widths = [len(text[start:end].rstrip()) for start, end in lines]
    widest = max(widths, default=0)
    start: int | None = None
    for number, (first, last) in enumerate(lines):
        if not text[first:last].strip():
            continue
        start = first if start is None else start
        following = text[slice(*lines[number + 1])] if number + 1 < len(lines) else ""
        word = _WORD.search(following)
        if word is None or widths[number] + 1 + len(word[0]) <= widest:
            yield start, last
            start = None


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    part = text[start:end]
    if not part.strip():
        return None
    return start + len(part) - len(part.lstrip()), end - (len(part) - len(part.rstrip()))
