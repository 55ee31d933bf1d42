"""Find who speaks in what subtitles write before the words, such as `ANNA: Come in.` or `[SPEAKER_00]: Hello`.

Nobody says these names, so a voice must not learn them as words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from job.fetch.cue_files import SEVERAL, Cue

#: What may stand before a label: tags, override codes, and the dash or `>>` of a change of speaker.
_BEFORE = r"^\s*(?:(?:<[^<>]*>|\{\\[^{}]*\}|[-–—]|>>+)\s*)*"
#: A number of an unknown speaker (WhisperX, pyannote, most services), in brackets or before a colon.
_NUMBERED = re.compile(
    _BEFORE + r"(?:[\[(]((?:speaker|spk)[ _-]?\d{1,3})[\])]\s*[:：]?|((?:speaker|spk)[ _-]?\d{1,3})\s*[:：])\s*", re.I
)
_BRACKETED = re.compile(_BEFORE + r"(?:\[([^\[\]\n:]{1,40})\]|\(([^()\n:]{1,40})\))\s*[:：]\s*")
_PLAIN = re.compile(_BEFORE + r"([^\W\d_][^\n:：<>\[\](){}?!;,]{0,30}?)\s?(?:[:：]\s+|：|:$)")
_MOST_WORDS = 4


def told_apart(cues: Iterable[Cue]) -> tuple[list[Cue], Counter[str]]:
    """Return the cues with the labels of speakers taken out of their texts, and how many cues have each label.

    A cue without a label after one with a label is of the same speaker. Names without brackets or a number are labels
    only if they recur, and are in capitals or before most cues: `Note: it rains` is said. Cues of a file that names
    its speakers otherwise are returned as they are.
    """
    given = sorted(cues, key=lambda cue: (cue.start if math.isfinite(cue.start) else -1.0, cue.number))
    found: Counter[str] = Counter()
    if any(cue.speaker for cue in given):
        return given, found
    labels = _labels([line for cue in given for line in cue.text.split("\n")], len(given))
    speaker: str | None = None
    told = []
    for cue in given:
        named: list[str] = []
        shown = []
        for line in cue.text.split("\n"):
            label, rest = _split(line)
            if label is not None and label in labels:
                named.append(label)
                line = rest
            shown.append(line)
        if named:
            found.update(set(named))
            speaker = named[-1]
        # A label in a later line: what stands before it is somebody else's.
        several = len(set(named)) > 1 or (named and not _labelled(cue.text.split("\n")[0], labels))
        told.append(replace(cue, text="\n".join(shown), speaker=f"?{SEVERAL}{speaker}" if several else speaker))
    return told, found


def _labels(lines: list[str], cues: int) -> set[str]:
    counts: Counter[str] = Counter()
    sure: set[str] = set()
    for line in lines:
        label, _ = _split(line)
        if label is not None:
            counts[label] += 1
            if not _PLAIN.match(line) or _NUMBERED.match(line):
                sure.add(label)
    again = {label for label, count in counts.items() if count > 1}
    shouted = sum(line.isupper() for line in lines) > len(lines) / 2
    capitals = set() if shouted else {label for label in again if label.isupper() and len(label) > 1}
    names = {label for label in again if all(word[:1] == word[:1].upper() for word in label.split())}
    often = 2 * sum(counts[label] for label in names) >= cues
    return sure | capitals | (names if often else set())


def _split(line: str) -> tuple[str | None, str]:
    """Return the label that a line may begin with, and the rest of the line without it."""
    for pattern in (_NUMBERED, _BRACKETED, _PLAIN):
        if found := pattern.match(line):
            label = next(group for group in found.groups() if group is not None).strip()
            if len(label.split()) <= _MOST_WORDS and any(map(str.isalpha, label)):
                return label, line[found.end() :]
    return None, line


def _labelled(line: str, labels: set[str]) -> bool:
    return _split(line)[0] in labels
