"""Say a long text in passages of whole sentences, and join them: a model drifts, or never stops, in one go."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from job.evaluate.speaking import Sample
from job.text import sentences

#: Longest passage in letters, about 20 s of speech; one of a script that writes syllables or words counts as three.
LONGEST = 300
WIDE = 3
#: Frames of silence between two passages.
PAUSE_FRAMES = 4
#: Where a sentence that is too long is divided, best first; what is before stays with the first part.
_PLACES = (re.compile(r"[;:；：،؛、，,](?=\s|[^\x00-\x7f])"), re.compile(r"\s"))


def length(text: str) -> int:
    """The length of a text in letters of an alphabet."""
    return sum(WIDE if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def of(text: str, longest: int | None = None) -> list[str]:
    """Divide a text at the ends of sentences, or where a single one is too long within it; a short text stays as it is.

    Args:
        longest: of a passage, by `length`; `LONGEST` if None.

    Returns:
        passages with words in them, which hold all of the text but the spaces between them.
    """
    longest = LONGEST if longest is None else longest
    if length(text) <= longest:
        return [text]
    found: list[str] = []
    begin = last = None
    for start, end in _pieces(text, longest):
        if begin is not None and length(text[begin:end]) > longest:
            found.append(text[begin:last])
            begin = None
        begin, last = start if begin is None else begin, end
    if begin is not None:
        found.append(text[begin:last])
    return _with_words(found)


def joined(samples: Sequence[Sample], text: str, samples_per_frame: int) -> Sample:
    """One sample of passages that were said one by one, with a short silence between them."""
    pause = np.zeros(PAUSE_FRAMES * samples_per_frame, np.float32)
    waves = [part for sample in samples for part in (pause, sample.waveform)][1:]
    seconds = np.array([sample.waveform.size for sample in samples])
    return replace(
        samples[0],
        utterance=replace(samples[0].utterance, text=text),
        waveform=np.concatenate(waves),
        frames=sum(sample.frames for sample in samples) + PAUSE_FRAMES * (len(samples) - 1),
        stopped_by_eos=all(sample.stopped_by_eos for sample in samples),
        real_time_factor=float(np.average([one.real_time_factor for one in samples], weights=seconds + 1)),
    )


def _pieces(text: str, longest: int) -> Iterator[tuple[int, int]]:
    """Start and end of each sentence, or of the parts of one that is too long."""
    for start, end in sentences.split(text):
        while length(text[start:end]) > longest:
            at = _division(text, start, end, longest)
            yield start, at
            start = at + len(text[at:end]) - len(text[at:end].lstrip())
        yield start, end


def _division(text: str, start: int, end: int, longest: int) -> int:
    """Where to divide a sentence so that its first part is at most `longest`, as late as possible."""
    most, taken = start, 0
    for letter in text[start:end]:
        taken += length(letter)
        if taken > longest and most > start:
            break
        most += 1
    for place in _PLACES:
        found = [match.end() for match in place.finditer(text, start, most) if text[start : match.end()].strip()]
        if found and length(text[start : found[-1]]) > longest / 4:
            return found[-1]
    return most


def _with_words(passages: list[str]) -> list[str]:
    """The passages, those without any word (a row of dots, dashes) put to the one before."""
    found: list[str] = []
    for passage in passages:
        if found and not any(letter.isalnum() for letter in passage):
            found[-1] += f" {passage}"
        else:
            found.append(passage)
    if len(found) > 1 and not any(letter.isalnum() for letter in found[0]):
        found[:2] = [f"{found[0]} {found[1]}"]
    return [passage.strip() for passage in found]
