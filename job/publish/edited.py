"""Tell a model card that somebody has edited from one that this job wrote, by a mark at its end.

The mark holds a digest of the metadata and one of the text below it, so that an edit of either is seen wherever the
card is read again: in `output/`, or in the repo.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass

from job.publish import front_matter

#: Lines of a difference that are shown, and characters of each.
MOST_LINES, LONGEST_LINE = 60, 160

#: A comment, which the Hub does not show.
_MARK = re.compile(r"\n*<!-- qwen3-tts-job wrote this card ([0-9a-f]{12}) ([0-9a-f]{12}); edits of it are kept -->\s*$")

#: In place of a digest, where a part is known to be somebody's own.
EDITED = "0" * 12


@dataclass(frozen=True)
class Edited:
    """Which parts of a card are not as this job wrote them."""

    metadata: bool
    body: bool


def joined(metadata: str, body: str, by_others: Edited) -> str:
    """A README.md of metadata in YAML and the text below it; its mark, if it has one, tells which were edited."""
    mark = _MARK.search(body)
    if mark:
        told = EDITED if by_others.metadata else _digest(metadata)
        body = body[: mark.start()] + _mark(told, EDITED if by_others.body else mark.group(2))
    return f"---\n{metadata}\n---\n{body}"


def marked(text: str) -> str:
    """A card with the mark at its end."""
    metadata, body = front_matter.split(text.strip())
    return text.strip() + _mark(_digest(metadata or ""), _digest(body))


def what(text: str) -> Edited:
    """What somebody has edited of a README.md: both parts where the mark is missing, a blank text excepted."""
    metadata, body = front_matter.split(text)
    mark = _MARK.search(body)
    if mark is None:
        return Edited(metadata is not None and bool(metadata.strip()), bool(body.strip()))
    told, told_body = mark.groups()
    return Edited(_digest(metadata or "") != told, _digest(body[: mark.start()]) != told_body)


def difference(old: str, new: str) -> list[str]:
    """What was repaired, line by line, as `diff` shows it."""
    _, _, *lines = [*difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)] or ("", "")
    changed = [line[:LONGEST_LINE] for line in lines if not line.startswith("@@")]
    more = len(changed) - MOST_LINES
    return [*changed[:MOST_LINES], f"… and {more} more lines"] if more > 0 else changed


def _mark(metadata: str, body: str) -> str:
    return f"\n\n<!-- qwen3-tts-job wrote this card {metadata} {body}; edits of it are kept -->\n"


def _digest(text: str) -> str:
    """Of the text without what editors change unasked: line ends and white space at the ends."""
    plain = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return hashlib.sha256(plain.encode()).hexdigest()[:12]
