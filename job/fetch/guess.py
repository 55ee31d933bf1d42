"""Guess from values, not names, which column of a table contains the sentences, the recordings or a language."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

from job.audio.audio_files import BY_FFMPEG, READABLE, SOUNDS
from job.core import storage
from job.fetch.sounds_spelled import PHONEMES, spells_sounds

#: Maximum number of cells per column that are looked up on disk, which may be slow.
_LOOKED_FOR = 40
#: Share of a column's cells that must be of one kind for the column to count as that kind.
MOSTLY = 0.5
#: The same for phonemes, whose letters and marks some languages are written with too, and the least number of cells.
_ALL_BUT_FEW, _FEWEST_SPELLED = 0.9, 3
_NUMBER = re.compile(r"[+-]?\d+([.,:/-]\d+)*([eE][+-]?\d+)?%?")
_CODE = re.compile(r"(?=[!-~]*[\d_/\\])[!-~]+")
_SHORTENED = re.compile(r"\d|\b[^\W\d]{1,5}\.(?=\s)|[$£€¥₹%&@#+=°§×/]")
_MORE_LANGUAGES = {"yue", "cmn", "auto", "all"}


@dataclass(frozen=True)
class Profile:
    """Statistics of a column's non-empty cells.

    `filled` is their number, `labels` are the different values, `letters` is the mean number of letters per cell, and
    `language` says whether all values are languages. The others are shares from 0 to 1: `sound` of names of recordings,
    `numbers` of numbers, `codes` of ids and paths, `sentences` of cells that read as a sentence, `names` of cells that
    name an existing file once an audio extension is added, `phonemes` of cells that spell sounds, and `distinct` of
    different values.
    """

    column: str
    filled: int
    labels: tuple[str, ...]
    distinct: float
    sound: float
    names: float
    numbers: float
    codes: float
    sentences: float
    letters: float
    language: bool
    phonemes: float

    @property
    def is_sound(self) -> bool:
        """Whether it contains names of recordings."""
        return self.sound >= MOSTLY

    @property
    def is_label(self) -> bool:
        """Whether it repeats a few values, such as speakers."""
        return self.filled > 1 and self.distinct <= 0.7 and not self.is_sound

    @property
    def says_nothing(self) -> str | None:
        """What it contains instead of sentences; None if it may contain sentences."""
        if self.is_sound:
            return "names of recordings"
        if self.numbers >= 0.9:
            return "numbers"
        if self.filled >= _FEWEST_SPELLED and self.phonemes >= _ALL_BUT_FEW:
            return PHONEMES
        if self.language:
            return "languages"
        if self.codes >= 0.9:
            return "ids or paths"
        if self.filled >= 5 and self.distinct <= 1 / self.filled:
            return "the same value in every row"
        return "a few labels" if self.filled >= 20 and self.distinct <= 0.1 else None

    @property
    def is_plainly_text(self) -> bool:
        """Whether it clearly contains sentences."""
        return self.says_nothing is None and self.sentences >= MOSTLY and (self.distinct >= 0.3 or self.filled < 3)

    @property
    def score(self) -> float:
        """How much it looks like sentences; used to compare columns."""
        return self.distinct * min(self.letters, 60.0) * (1 - 0.8 * self.codes)

    @property
    def examples(self) -> str:
        """Two example values, for a message."""
        return ", ".join(repr(label if len(label) <= 30 else label[:29] + "…") for label in self.labels[:2])


def profiles(rows: Sequence[Mapping[str, Any]], columns: Iterable[str], folders: list[Path]) -> dict[str, Profile]:
    """Profile each column in a sample of rows; columns without plain values (only bytes, say) are omitted."""
    return {c: p for c in columns if (p := profile(c, [row.get(c) for row in rows], folders)) is not None}


def profile(column: str, values: Sequence[Any], folders: list[Path]) -> Profile | None:
    """Profile one column; None if it has no plain values."""
    cells = [cell for v in values if isinstance(v, str | int | float) and (cell := str(v).strip())]
    if not cells:
        return None
    some = cells[:: -(-len(cells) // _LOOKED_FOR)]
    labels = tuple(dict.fromkeys(cells))
    sound = _share(is_sound(cell, folders) for cell in some)

    def of(test: Callable[[str], Any]) -> float:
        return _share(bool(test(cell)) for cell in cells)

    return Profile(
        column=column,
        filled=len(cells),
        labels=labels,
        distinct=len(labels) / len(cells),
        sound=sound,
        names=_share(bool(with_ending(cell, folders)) for cell in some) if sound < MOSTLY else 0.0,
        numbers=of(_NUMBER.fullmatch),
        codes=of(_CODE.fullmatch),
        sentences=of(reads_as_sentence),
        letters=sum(sum(map(str.isalpha, cell)) for cell in cells) / len(cells),
        language=len(labels) <= 10 and all(map(is_language, labels)),
        phonemes=of(spells_sounds),
    )


def plain_name(column: str) -> str:
    """Normalize a column's name to snake case: `Start Time (s)` and `startTime[s]` become `start_time_s`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column.strip().strip("()[]{}<>.:;,#*'\""))
    return re.sub(r"[\s()\[\]{}.:/-]+", "_", words).lower()


def is_sound(cell: str, folders: list[Path]) -> bool:
    """Whether a cell names a recording: by its extension, or because the file exists."""
    return cell.lower().endswith(SOUNDS) or is_file(cell, folders)


def is_file(cell: str, folders: list[Path]) -> bool:
    """Whether a cell names a file in one of the folders (or anywhere, by an absolute path)."""
    if not 0 < len(cell) < 300 or "\n" in cell:
        return False
    try:
        names = {form for name in {cell, cell.replace("\\", "/")} for form in _forms(name)}
        return any((folder / name).is_file() for name in names for folder in folders)
    except (OSError, ValueError) as error:
        storage.check(error)
        return False


def _forms(name: str) -> tuple[str, ...]:
    """Return a name with its accents as given, composed (as typed) and decomposed (as macOS names files)."""
    if name.isascii():
        return (name,)
    return name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)


def with_ending(cell: str, folders: list[Path]) -> str | None:
    """Add the extension of the existing file to a recording's name: LJSpeech has `LJ001-0001` for `LJ001-0001.wav`."""
    if not 0 < len(cell) < 200 or "\n" in cell or cell.lower().endswith(SOUNDS):
        return None
    named = (cell + ending for kind in (*READABLE, *BY_FFMPEG) for ending in (kind, kind.upper()))
    return next((name for name in named if is_file(name, folders)), None)


def reads_as_sentence(cell: str) -> bool:
    """Whether a cell has several words, letters of a script without spaces, or a word with final punctuation."""
    letters = sum(map(str.isalpha, cell))
    if len(cell.split()) >= 3 and letters >= 5:
        return True
    if sum(_sets_no_spaces(character) for character in cell) >= 4:
        return True
    return letters >= 2 and not _CODE.fullmatch(cell) and cell.rstrip("\"'»”’ ")[-1:] in tuple(".!?…。！？؟।։")


def is_code(word: str) -> bool:
    """Whether a word is an id, a number, a path or an address."""
    return bool(_CODE.fullmatch(word))


def _sets_no_spaces(character: str) -> bool:
    """Whether a letter is from a script without spaces: Chinese, Japanese, Thai, Lao, Khmer, Burmese or Tibetan."""
    code = ord(character)
    return unicodedata.category(character)[0] in "LM" and (
        0x0E00 <= code <= 0x109F or 0x1780 <= code <= 0x17FF or 0x2E80 <= code <= 0xABFF or code >= 0x20000
    )


@cache
def is_language(cell: str) -> bool:
    """Whether a cell is a language: an ISO 639-1 code (with or without a region), or a name in any language.

    Three-letter codes do not count, since `tom`, `max` and `kim` are valid ones.
    """
    import langcodes

    if cell.lower() in _MORE_LANGUAGES:
        return True
    if re.fullmatch(r"[A-Za-z]{2}([-_][A-Za-z]{2})?", cell):
        return langcodes.tag_is_valid(cell.replace("_", "-"))
    try:
        return "\0" not in cell and len(cell) <= 30 and len(str(langcodes.find(cell).language)) == 2
    except (LookupError, UnicodeError):
        return False


def same_sentence(raw: str, other: str) -> bool:
    """Whether two texts differ only in numbers and abbreviations written out in one, letter case and punctuation."""
    one, two = _folded(raw), _folded(other)
    if one == two:
        return True
    shortened = _SHORTENED.search(raw) or _SHORTENED.search(other)
    enough = 0.7 if min(len(one), len(two)) > 20 else 0.6
    return bool(shortened) and SequenceMatcher(None, one, two, autojunk=False).ratio() >= enough


def may_be_same(raw: str, other: str) -> bool:
    """Whether two texts may be the same sentence, by a looser measure: False only if they clearly differ."""
    one, two = _folded(raw), _folded(other)
    if max(len(one), len(two)) < 4 or _SHORTENED.search(raw) or same_sentence(raw, other):
        return True
    return SequenceMatcher(None, one, two, autojunk=False).ratio() >= 0.7


def unrelated(rows: Sequence[Mapping[str, Any]], first: str, second: str) -> bool:
    """Whether two columns contain sentences with hardly any word in common, such as a sentence and its translation."""
    both = [(_words(str(row[first])), _words(str(row[second]))) for row in rows if row.get(first) and row.get(second)]
    shares = [len(one & two) / min(len(one), len(two)) for one, two in both if min(len(one), len(two)) >= 3]
    return bool(shares) and _share(share < 0.34 for share in shares) >= 0.7


def _words(text: str) -> set[str]:
    """Return the set of words without digits in a text; its letters in scripts without spaces."""
    words = {word for word in _folded(text).split() if word.isalpha()}
    return {part for word in words for part in (word if any(map(_sets_no_spaces, word)) else [word])}


def written_out(rows: Sequence[Mapping[str, Any]], first: str, second: str) -> tuple[str, str, str] | None:
    """Order two columns with the same sentences, the one to be read first, and say why it is.

    That is the one with numbers and abbreviations written out. If the words do not differ in that, one of them may be
    stripped of its capitals and marks (FLEURS): then it is the other. None if they are different texts (a translation,
    phonemes).
    """
    both = [(str(row[first]), str(row[second])) for row in rows if row.get(first) and row.get(second)]
    both = [pair for pair in both if max(map(len, pair)) >= 4]
    some = both[:: max(1, len(both) // _LOOKED_FOR)]
    if not some or _share(same_sentence(*pair) for pair in some) < 0.8:
        return None
    spelled = [pair for pair in both if not _same_letters(*pair)]
    counts = [sum(len(_SHORTENED.findall(pair[n])) for pair in spelled) for n in (0, 1)]
    marks = [sum(_marks(pair[n]) for pair in both) for n in (0, 1)]
    stripped = counts[0] == counts[1] and marks[0] != marks[1]
    first_is_read = marks[0] > marks[1] if stripped else counts[0] < counts[1]
    why = "with its capitals and marks" if stripped else "numbers and abbreviations written out"
    return (first, second, why) if first_is_read else (second, first, why)


def _same_letters(one: str, other: str) -> bool:
    return _folded(one).replace(" ", "") == _folded(other).replace(" ", "")


def _marks(text: str) -> int:
    """Return the number of punctuation marks and capitals; in a text of capitals alone these tell nothing."""
    capitals = sum(map(str.isupper, text)) if any(map(str.islower, text)) else 0
    return capitals + sum(unicodedata.category(character)[0] == "P" for character in text)


def _folded(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()))


def _share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return sum(found) / len(found) if found else 0.0
