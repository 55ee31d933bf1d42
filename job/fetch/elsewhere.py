"""Find a file anywhere below a folder that has the words of its recordings, in a layout or place that is not read.

Corpora come with such files in a folder of their own, or a few folders down: `train/transcripts.txt` (MLS),
`by_book/…/metadata.csv` (M-AILABS), `etc/txt.done.data` (CMU Arctic), `ProsodyLabeling/000001-010000.txt` (Baker). To
have a recogniser guess what is written there would be to train on worse words.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
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
#: How many files of one folder are looked into (of thousands, each is one recording's), how many of all folders, and
#: how much of each, bytes.
_FILES, _ALL_FILES, _BYTES = 12, 200, 1 << 16
#: The least number of recordings that a file must name, their least share of those below its folder or of all, and
#: their least number for each of its lines.
_LEAST, _SHARE, _A_LINE = 3, 0.2, 0.05
#: Descriptions, not tables, where they lie beside the folder: of a shop's or a site's whole catalogue, say.
_DESCRIPTIONS = (".json", ".xml", ".yaml", ".yml")
#: How many letters there are at least beside each name, in words that are not repeated: else there are no sentences.
_LETTERS = 3
_TOKEN = re.compile(r"[^\s\"'“”,;|()\[\]{}<>=：:]+")


def with_words(root: Path, audio: list[Path]) -> str | None:
    """Describe a file that names several recordings of a folder and has words beside the names; None if there is none.

    Args:
        root: the folder.
        audio: all recordings below it.
    """
    if len(audio) < _LEAST:  # what names one or two may be of anything, as what a downloader writes beside a film
        return None
    by_name: dict[str, Path] = {}
    for path in audio:
        by_name.setdefault(listing.key(audio_files.stem(path.name)), path)
    folders = Counter(path.parent for path in audio)
    for path in _candidates(root, by_name):
        named, of_all = _named(path, by_name)
        if not named:
            continue
        shown = os.path.relpath(path, root)
        inside = all(found.is_relative_to(path.parent) for found in named)
        below = (count for folder, count in folders.items() if folder.is_relative_to(path.parent))
        among = sum(below) if inside else len(audio)
        if len(named) < _SHARE * of_all * among:
            continue
        if path.parent != root and inside:
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


def _candidates(root: Path, by_name: Collection[str]) -> Iterator[Path]:
    """Yield the files that may be such, below the folder and beside it: of `wavs`, the table is in the folder above.

    Those of one recording (`ep12.info.json` beside `ep12.wav`) are left out. Of many folders, the first files of each
    come first, since not all are looked into.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in (*_beside(root), *listing.all_below(root)):
        name = path.name.lower()
        if name.endswith(_ENDINGS) and not name.startswith(_ABOUT) and not listing.begins_like(path.name, by_name):
            by_folder[path.parent].append(path)
    ranked = []
    for folder, paths in by_folder.items():
        # A folder's `metadata.csv` is what is read there, so it is named before others.
        paths.sort(key=lambda path: (path.name not in listing.METADATA, path.name))
        ranked += [(rank, folder, path) for rank, path in enumerate(paths[:_FILES])]
    yield from (path for _, _, path in sorted(ranked)[:_ALL_FILES])


def _beside(root: Path) -> list[Path]:
    try:
        found = [path for path in root.parent.iterdir() if not path.name.lower().endswith(_DESCRIPTIONS)]
        return [path for path in found if path.is_file() and not written_by_a_run(path)]
    except OSError as error:
        storage.check(error, root.parent)
        return []


def _named(path: Path, by_name: dict[str, Path]) -> tuple[list[Path], float]:
    """Return the recordings that a file names, and the share of it that was read.

    None are returned if they are few, or if there are hardly any words beside the names.
    """
    try:
        with open(path, "rb") as handle:
            head = handle.read(_BYTES)
            read = len(head) / max(len(head), os.fstat(handle.fileno()).st_size, 1)
    except OSError as error:
        storage.check(error, path)
        return [], 1.0
    content = head.decode(lines.encoding_of(head), "ignore")
    tokens = set(_TOKEN.findall(content))
    found: dict[str, Path] = {}
    names: set[str] = set()
    for token in tokens:
        name = token.replace("\\", "/").rsplit("/", 1)[-1]
        whole = listing.key(name)
        if whole not in by_name and whole.rpartition(".")[0] not in by_name:  # most, and soon seen
            continue
        stem = audio_files.stem(name)
        # A word or a short number is a recording's name only with an ending: `one.wav` is said to be `one`.
        telling = stem != name or (len(stem) > _LEAST and any(not c.isalpha() for c in stem))
        if telling and (key := listing.key(stem)) in by_name:
            found[key] = by_name[key]
            names.add(token)
    if len(found) < _LEAST:
        return [], read
    letters = sum(sum(map(str.isalpha, word)) for word in tokens - names if not guess.is_code(word))
    rows = sum(1 for line in content.splitlines() if line.strip())
    enough = len(found) >= _A_LINE * rows and letters >= _LETTERS * len(found)
    return (list(found.values()) if enough else []), read
