"""Name the people who were told apart under one speaker name: NAME, NAME_2, NAME_3 ... (KEEP_SPEAKERS=split).

The most seconds come first, but whoever had a name in the prepared dataset before keeps it: the clips of then, which
are known by their contents, show who that is. So more recordings change no name as long as the work directory is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import count

import numpy as np

from job.prepare.clip_voices import Clip
from job.prepare.thresholds import FEWEST_OWN, LEAST_OWN, MOVED

#: Speaker name -> keys of its clips.
Named = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Person:
    """One of the people under a speaker name.

    Attributes:
        name: the speaker that this person becomes; None for too few clips or seconds.
        clips: number of clips.
        seconds: their total length.
    """

    name: str | None
    clips: int
    seconds: float


def name_people(
    name: str,
    clips: Sequence[Clip],
    who: Sequence[int],
    before: Mapping[str, Sequence[str]],
    taken: Set[str],
    known: bool = False,
) -> tuple[list[Person], list[str]]:
    """Name each person.

    Args:
        name: the name that they have in the data.
        clips: their clips.
        who: number of the person in each clip; 0 is who is kept whatever there is of that person.
        before: names of an earlier run -> keys of the clips that they had.
        taken: names that none of them may get.
        known: person 0 is the one in a reference recording of `name`, and so has that name.

    Returns:
        The people by number, and warnings about clips that had another name before.
    """
    seconds = np.bincount(who, [clip.seconds for clip in clips]).round(3).tolist()
    counts = np.bincount(who).tolist()
    people = range(len(counts))
    enough = [person == 0 or _is_enough(counts[person], seconds[person]) for person in people]

    had = {key: old for old, keys in before.items() for key in keys}
    shared: dict[tuple[int, str], float] = {}
    for clip, one in zip(clips, who, strict=True):
        if clip.key in had:
            shared[one, had[clip.key]] = shared.get((one, had[clip.key]), 0.0) + clip.seconds
    names: dict[int, str] = {0: name} if known else {}
    for one, old in sorted(shared, key=lambda pair: (-shared[pair], pair)):
        if one not in names and old not in names.values():
            names[one] = old
    reserved = set(before) if shared else set()  # where nothing is left of the earlier data, its names are free
    free = _free(name, taken | reserved | set(names.values()))
    for person in people:
        if enough[person] and person not in names:
            names[person] = next(free)
    told = [Person(names.get(one) if enough[one] else None, counts[one], seconds[one]) for one in people]
    return told, list(_moved(clips, who, told, had))


def _is_enough(clips: int, seconds: float) -> bool:
    return clips >= FEWEST_OWN and seconds >= LEAST_OWN


def _free(name: str, used: Set[str]) -> Iterator[str]:
    if name not in used:
        yield name
    for number in count(2):
        if (one := f"{name}_{number}") not in used:
            yield one


def _moved(clips: Sequence[Clip], who: Sequence[int], told: Sequence[Person], had: Mapping[str, str]) -> Iterator[str]:
    """Warn of names under which much of what was said before is another person's now."""
    lengths: dict[str, list[float]] = {}
    moved: dict[str, list[bool]] = {}
    for clip, one in zip(clips, who, strict=True):
        if (old := had.get(clip.key)) is not None:
            lengths.setdefault(old, []).append(clip.seconds)
            moved.setdefault(old, []).append(told[one].name != old)
    for old in sorted(lengths):
        away = np.array(moved[old])
        share = float(np.array(lengths[old])[away].sum()) / max(sum(lengths[old]), 1e-9)
        if share > MOVED:
            yield (
                f"KEEP_SPEAKERS=split: {away.sum()} of {len(away)} clips that were {old!r} are now another's, so that "
                f"name may mean another person than in the voice trained before; listen to a few of its clips"
            )
