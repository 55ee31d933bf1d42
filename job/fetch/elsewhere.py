"""Find a file anywhere below a folder that has the words of its recordings, in a layout or place that is not read.

Corpora come with such files in a folder of their own, or a few folders down: `train/transcripts.txt` (MLS),
`by_book/…/metadata.csv` (M-AILABS), `etc/txt.done.data` (CMU Arctic), `ProsodyLabeling/000001-010000.txt` (Baker). To
have a recogniser guess what is written there would be to train on worse words.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from job.audio import audio_files
from job.config.paths import written_by_a_run
from job.core import storage
from job.fetch import guess, lines, listing

_ENDINGS = (
    *(".csv", ".tsv", ".psv", ".txt", ".list", ".lst", ".jsonl", ".json", ".text", ".trans"),
    *(".data", ".xml", ".yaml", ".yml"),
)
#: Texts of one recording each.
_TEXTS = (".txt", ".lab", ".docx", ".doc", ".odt", ".rtf", ".md")
#: Files about a corpus, which may show a few of its rows.
_ABOUT = ("readme", "license", "licence", "changelog", "about")
#: How many files of one folder are looked into (of thousands, each is one recording's), and how much of each, bytes.
_FILES, _BYTES = 12, 1 << 16
#: The least number of recordings that a file must name, and their least number for each of its lines.
_LEAST, _A_LINE = 3, 0.05
#: How many letters there are at least beside each name, in words that are not repeated: else there are no sentences.
_LETTERS = 3
_TOKEN = re.compile(r"[^\s\"'“”,;|()\[\]{}<>=：:]+")


def with_words(root: Path, audio: list[Path]) -> str | None:
    """Describe a file that names several recordings of a folder and has words beside the names; None if there is none.

    Args:
        root: the folder.
        audio: all recordings below it.
    """
    by_name: dict[str, Path] = {}
    for path in audio:
        by_name.setdefault(listing.key(audio_files.stem(path.name)), path)
    for path in _candidates(root):
        named = _named(path, by_name)
        if len(named) < min(_LEAST, len(audio)):
            continue
        shown = os.path.relpath(path, root)
        if path.parent != root and all(found.is_relative_to(path.parent) for found in named):
            return f"{shown} names recordings: set DATA_DIR to {path.parent} (DATASETS takes several such folders)"
        todo = f"write the words as metadata.csv in {root}, with audio and text"
        return f"{shown} names the recordings and is not read: {todo}"
    return None


def nearly_beside(root: Path, audio: list[Path]) -> str | None:
    """Describe texts that are called nearly like most recordings, `a_text.txt` for `a.wav`; None if there are none.

    Args:
        root: the folder.
        audio: all recordings below it.
    """
    by_name = {listing.key(audio_files.stem(path.name)): path for path in audio}
    found: dict[Path, Path] = {}
    for path in listing.all_below(root):
        if path.suffix.lower() in _TEXTS:
            names = (name for name in _shorter(listing.key(path.stem)) if name in by_name)
            if (name := next(names, None)) is not None:
                found.setdefault(by_name[name], path)
    if 2 * len(found) <= len(audio):
        return None
    recording, text = next(iter(found.items()))
    wanted = f"{audio_files.stem(recording.name)}.txt"
    return f"{text.relative_to(root)} may be the text of {recording.name} and is not read: call it {wanted}, and so on"


def _shorter(name: str) -> Iterator[str]:
    """Yield a name without its last words, then without its first: `take_1` and `1_text` of `take_1_text`."""
    parts = re.split(r"([^\w]+|_+)", name)
    for count in range(len(parts) - 2, 0, -2):
        yield "".join(parts[:count])
    for count in range(2, len(parts), 2):
        yield "".join(parts[count:])


def _candidates(root: Path) -> Iterator[Path]:
    """Yield the files that may be such, below the folder and beside it: of `wavs`, the table is in the folder above."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in (*_beside(root), *listing.all_below(root)):
        name = path.name.lower()
        if name.endswith(_ENDINGS) and not name.startswith(_ABOUT):
            by_folder[path.parent].append(path)
    for folder in sorted(by_folder):
        # A folder's `metadata.csv` is what is read there, so it is named before others.
        yield from sorted(by_folder[folder], key=lambda path: (path.name not in listing.METADATA, path.name))[:_FILES]


def _beside(root: Path) -> list[Path]:
    try:
        return [path for path in root.parent.iterdir() if path.is_file() and not written_by_a_run(path)]
    except OSError as error:
        storage.check(error, root.parent)
        return []


def _named(path: Path, by_name: dict[str, Path]) -> list[Path]:
    """Return the recordings that a file names; none if there are hardly any words beside the names."""
    try:
        with open(path, "rb") as handle:
            head = handle.read(_BYTES)
    except OSError as error:
        storage.check(error, path)
        return []
    content = head.decode(lines.encoding_of(head), "ignore")
    found: dict[str, Path] = {}
    words: set[str] = set()
    for token in _TOKEN.findall(content):
        name = token.replace("\\", "/").rsplit("/", 1)[-1]
        stem = audio_files.stem(name)
        # A word or a short number is a recording's name only with an ending: `one.wav` is said to be `one`.
        telling = stem != name or (len(stem) > _LEAST and any(not c.isalpha() for c in stem))
        if telling and (key := listing.key(stem)) in by_name:
            found[key] = by_name[key]
        elif not guess.is_code(token):
            words.add(token)
    letters = sum(sum(map(str.isalpha, word)) for word in words)
    rows = sum(1 for line in content.splitlines() if line.strip())
    enough = len(found) >= _A_LINE * rows and letters >= _LETTERS * len(found)
    return list(found.values()) if enough else []
