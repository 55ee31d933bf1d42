"""Tell apart the people who speak under one speaker name, and keep one of them or make each a speaker (KEEP_SPEAKERS).

For recordings in which several people speak: a podcast with guests, an interview. As in `job.prepare.one_voice`, the
scale comes from the recordings: the two halves of a clip are the same person's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.audio.clip import load
from job.core import console, files
from job.dataset.prepared import SPLITS
from job.prepare import clip_voices
from job.prepare.clip_voices import Clip, Halves, halves_of
from job.prepare.leaving_out import LeftOut
from job.prepare.one_voice import FEWEST_CLIPS, NO_DISTANCE, SHORTEST, unit
from job.prepare.people_names import Named, Person, name_people
from job.prepare.speakers import KEPT
from job.prepare.thresholds import FEWEST_OWN, LEAST_OWN
from job.prepare.work import STAGE, Work

#: Reason of rejected rows.
REASON = "other_speaker"
#: Most clips that are compared pair by pair; the others go to the person whose clips they are nearest to.
MOST_COMPARED = 2000
#: Clips of two people are farther apart than the halves of a typical clip, by a factor that is sought between these:
#: where the distances at which clusters join leave the widest gap. Whole clips are compared, since halves differ by
#: what is said as much as by who says it. Measured with a trained encoder, nineteen people and fifteen voices that were
#: more alike, one to five in a conversation (`benchmarks/people.py`, and what else was tried in
#: `benchmarks/RESULTS.md`).
NEAREST, FARTHEST = 0.9, 1.3


@dataclass(frozen=True, slots=True)
class People:
    """Who speaks in each clip, as a number, the person with the most seconds first; and how alike they are.

    Attributes:
        who: (clips,) number of the person.
        likeness: (clips,) cosine similarity to the mean of the first person's clips.
    """

    who: NDArray[np.int64]
    likeness: NDArray[np.float64]


@dataclass(slots=True)
class Told:
    """What became of the rows in which several people speak.

    Attributes:
        rows: details of the rows to leave out, by split (an index into SPLITS) and position.
        speakers: split -> position -> speaker, of rows that get another one than they have in the data.
        figures: name in the data -> what quality.json says of its people.
        named: name in the data -> its speakers, and the keys of their clips, for the next run (split).
    """

    rows: dict[tuple[int, int], str] = field(default_factory=dict)
    speakers: dict[str, dict[int, str]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    figures: dict[str, Any] = field(default_factory=dict)
    named: dict[str, Named] = field(default_factory=dict)

    @property
    def left_out(self) -> LeftOut:
        """The rows to leave out."""
        return LeftOut.of(REASON, self.rows)


def tell(work: Work) -> Told:
    """Tell people apart in the data of each speaker name, unless KEEP_SPEAKERS=all.

    Where the name has a reference recording, or there is a REF_AUDIO_PATH and a single name, that person is the first,
    else the one who speaks most. All rows must be encoded already.
    """
    told = Told(named=_named_before(work))
    settings, wanted = work.settings, work.settings.keep_speakers
    if wanted == "all":
        return told
    for name in sorted(name for name, plan in work.plans.items() if plan.strategy == KEPT):
        console.warn(STAGE, f"KEEP_SPEAKERS={wanted}: {name!r} is a speaker of the base model; all its clips are kept")
    if wanted == "split":
        told.named = {name: had for name, had in told.named.items() if name in work.manifest.speakers}
    by_name = clip_voices.clips(work)
    for name, clips in sorted(by_name.items()):
        if sum(clip.seconds >= SHORTEST for clip in clips) < FEWEST_CLIPS:
            console.warn(STAGE, f"KEEP_SPEAKERS={wanted}: {name!r} has too few clips to tell who speaks; all are kept")
            continue
        path = settings.ref_audio_path if settings.ref_audio_path and len(by_name) == 1 else work.plans[name].path
        whose = f"the one in {path}" if path else "the one who speaks most"
        found = people(clips, _halves_in(path, work) if path else None)
        if wanted == "main":
            _keep_one(told, name, clips, found, whose)
        else:
            _split(told, name, clips, found, work, path is not None)
    return told


def _halves_in(path: Path, work: Work) -> Halves:
    """X-vectors of the halves of a reference recording."""
    assert work.encoder is not None  # there are clips that it has embedded
    return halves_of(load(path, work.encoder.sample_rate).samples, work.encoder)


def _keep_one(told: Told, name: str, clips: list[Clip], found: People, whose: str) -> None:
    """Leave out everybody's clips but the first person's."""
    main = found.who == 0
    hours = np.array([clip.seconds for clip in clips]) / 3600
    share = f"{main.sum()} of {len(clips)} clips of {name!r} ({hours[main].sum():.2f} of {hours.sum():.2f} h)"
    console.say(STAGE, f"KEEP_SPEAKERS=main: {share} are of {whose}; others are left out, as {REASON}")
    usual = float(np.median(found.likeness[main]))
    for clip, one, like in zip(clips, main, found.likeness, strict=True):
        if not one:
            told.rows[clip.split, clip.position] = (
                f"somebody else speaks than in most clips of {name!r}: similarity {like:.2f}, where theirs is "
                f"{usual:.2f} (KEEP_SPEAKERS=all keeps it)"
            )
    counts, seconds = np.bincount(found.who), np.bincount(found.who, hours * 3600)
    persons = [
        Person(None if n else name, int(count), round(float(long), 3))
        for n, (count, long) in enumerate(zip(counts, seconds, strict=True))
    ]
    told.figures[name] = _figures(persons)


def _split(told: Told, name: str, clips: list[Clip], found: People, work: Work, referred: bool) -> None:
    """Make each person a speaker, and leave out those with too few clips or seconds."""
    others = (set(work.manifest.speakers) | set(work.existing)) - {name}
    before = {old: had for old, had in told.named.pop(name, {}).items() if old not in others}
    others |= {one for named in told.named.values() for one in named}
    persons, warnings = name_people(name, clips, found.who.tolist(), before, others, referred)
    for warning in warnings:
        console.warn(STAGE, warning)
    speakers = [one for one in persons if one.name is not None]
    shown = ", ".join(f"{one.name} ({one.clips} clips, {one.seconds / 60:.1f} min)" for one in speakers)
    few = [one for one in persons if one.name is None]
    console.say(
        STAGE,
        f"KEEP_SPEAKERS=split: of {name!r} come the speakers {shown}; {sum(one.clips for one in few)} clips of "
        f"{len(few)} others with too few are left out, as {REASON}",
    )
    keys: Named = {one: list[str]() for one in (person.name for person in speakers) if one is not None}
    for clip, number in zip(clips, found.who.tolist(), strict=True):
        person = persons[number]
        if person.name is None:
            told.rows[clip.split, clip.position] = (
                f"of {name!r} this person says {person.clips} clips and {person.seconds:.0f} s, and a speaker needs "
                f"{FEWEST_OWN} and {LEAST_OWN:.0f} s (KEEP_SPEAKERS=all keeps it)"
            )
            continue
        keys[person.name].append(clip.key)
        if person.name != name:
            told.speakers[SPLITS[clip.split]][clip.position] = person.name
    seen = {clip.key for clip in clips}
    absent = {old: had for old, had in before.items() if old not in keys}
    told.named[name] = keys | (absent if any(key in seen for had in before.values() for key in had) else {})
    told.figures[name] = _figures(persons)


def _figures(persons: list[Person]) -> dict[str, Any]:
    """The section of quality.json about the people under a name: those who are speakers, and the others together."""
    few = [one for one in persons if one.name is None]
    return {
        "people": len(persons),
        "speakers": {one.name: {"clips": one.clips, "seconds": one.seconds} for one in persons if one.name is not None},
        "left_out": {
            "people": len(few),
            "clips": sum(one.clips for one in few),
            "seconds": round(sum(one.seconds for one in few), 3),
        },
    }


def _named_before(work: Work) -> dict[str, Named]:
    """Return the names of the dataset that is there; nothing if there is none, or its file is damaged."""
    path = work.settings.paths.people
    try:
        found: dict[str, Named] = files.read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        console.warn(STAGE, f"{path} is damaged: people may get other names than before")
        return {}
    return found


def people(clips: list[Clip], reference: Halves | None = None) -> People:
    """Tell the people in some clips apart, by clusters of average linkage.

    Args:
        clips: at least two of `SHORTEST` seconds.
        reference: halves (2, dim) of a recording of the person to be the first.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    seconds = np.array([clip.seconds for clip in clips])
    long = np.flatnonzero(seconds >= SHORTEST)
    compared = long[np.unique(np.linspace(0, len(long) - 1, min(len(long), MOST_COMPARED)).round().astype(int))]
    halves = _exact([clips[n] for n in compared])
    means = unit(halves.mean(axis=1))
    typical = max(float(np.median(1 - (halves[:, 0] * halves[:, 1]).sum(axis=1))), NO_DISTANCE)
    distances = np.maximum(1 - means @ means.T, 0.0)
    joined = linkage(distances[np.triu_indices(len(compared), 1)], "average")
    labels = fcluster(joined, _apart_from(joined[:, 2], NEAREST * typical, FARTHEST * typical), "distance")

    centres = np.stack([unit(means[labels == label].mean(axis=0)) for label in np.unique(labels)])
    parts = (clips[at : at + MOST_COMPARED] for at in range(0, len(clips), MOST_COMPARED))
    near = np.concatenate([unit(_exact(part).mean(axis=1)) @ centres.T for part in parts])
    who = near.argmax(axis=1)
    who[compared] = labels - 1
    spoken = np.bincount(who, seconds, minlength=len(centres))
    first = np.full(len(centres), len(clips))
    np.minimum.at(first, who, np.arange(len(clips)))
    order = np.lexsort((first, -spoken.round(3)))
    if reference is not None:
        wanted = int((centres @ unit(reference.astype(np.float64).mean(axis=0))).argmax())
        order = np.array([wanted, *(one for one in order if one != wanted)])
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return People(places[who], near[:, order[0]])


def _exact(clips: list[Clip]) -> NDArray[np.float64]:
    """The halves (clips, 2, dim) of some clips in double precision, 32 kB each: never of all of them at once."""
    return np.stack([clip.halves for clip in clips]).astype(np.float64)


def _apart_from(joins: NDArray[np.float64], nearest: float, farthest: float) -> float:
    """The distance from which clusters are different people: in the widest gap between the `joins`, within limits."""
    edges = np.concatenate([[nearest], np.sort(joins[(joins > nearest) & (joins < farthest)]), [farthest]])
    widest = int(np.diff(edges).argmax())
    return float(edges[widest : widest + 2].mean())
