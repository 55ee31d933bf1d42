"""Keep those rows of each speaker name in which one person speaks, and leave others' out (KEEP_SPEAKERS=main).

For recordings in which several people speak: a podcast with guests, an interview. As in `job.prepare.one_voice`, the
scale comes from the recordings: the two halves of a clip are the same person's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.audio.clip import Samples, Unusable, load
from job.core import console
from job.core.threads import in_order
from job.dataset.prepared import SPLITS
from job.model.speaker_encoder import SpeakerEncoder
from job.prepare.admitted import within_limits
from job.prepare.leaving_out import LeftOut
from job.prepare.one_voice import FEWEST_CLIPS, LONGEST, OTHER_VOICE, SHORTEST, distances_of, embed_halves, unit
from job.prepare.readers import readers
from job.prepare.speakers import KEPT
from job.prepare.work import STAGE, Work

#: Reason of rejected rows.
REASON = "other_speaker"
#: Most clips that are compared pair by pair; the others go to the person whose clips they are nearest to.
MOST_COMPARED = 2000
_COLUMNS = ["position", "speaker", "audio", "start", "end", "seconds"]


@dataclass(frozen=True, slots=True)
class Clip:
    """A row with a recording: its place, its length (s), and the x-vectors of its halves, (2, dim) of length 1.

    Of a clip under `SHORTEST` seconds both are the whole clip's.
    """

    split: int
    position: int
    seconds: float
    halves: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class People:
    """Who speaks in each clip, as a number, the person with the most seconds first; and how alike they are.

    Attributes:
        who: (clips,) number of the person.
        likeness: (clips,) cosine similarity to the mean of the first person's clips.
    """

    who: NDArray[np.int64]
    likeness: NDArray[np.float64]


def others(work: Work) -> LeftOut:
    """Find the rows in which somebody else speaks; none unless KEEP_SPEAKERS=main.

    With REF_AUDIO_PATH and a single speaker name, the person of that recording is kept, else the one who speaks most.
    All rows must be encoded already.
    """
    settings, encoder = work.settings, work.encoder
    if settings.keep_speakers == "all" or encoder is None:
        return LeftOut.nothing(REASON)
    by_name = _clips(work, encoder)
    reference = None
    if settings.ref_audio_path is not None and len(by_name) == 1:
        reference = _halves(load(settings.ref_audio_path, encoder.sample_rate).samples, encoder)
    rows: dict[tuple[int, int], str] = {}
    for name, clips in sorted(by_name.items()):
        if sum(clip.seconds >= SHORTEST for clip in clips) < FEWEST_CLIPS:
            console.warn(STAGE, f"KEEP_SPEAKERS=main: {name!r} has too few clips to tell who speaks; all are kept")
            continue
        told = people(clips, reference)
        main = told.who == 0
        hours = np.array([clip.seconds for clip in clips]) / 3600
        whose = "the one in REF_AUDIO_PATH" if reference is not None else "the one who speaks most"
        share = f"{main.sum()} of {len(clips)} clips of {name!r} ({hours[main].sum():.2f} of {hours.sum():.2f} h)"
        console.say(STAGE, f"KEEP_SPEAKERS=main: {share} are of {whose}; others are left out, as {REASON}")
        usual = float(np.median(told.likeness[main]))
        for clip, one, like in zip(clips, main, told.likeness, strict=True):
            if not one:
                rows[clip.split, clip.position] = (
                    f"somebody else speaks than in most clips of {name!r}: similarity {like:.2f}, where theirs is "
                    f"{usual:.2f} (KEEP_SPEAKERS=all keeps it)"
                )
    return LeftOut.of(REASON, rows)


def people(clips: list[Clip], reference: NDArray[np.float16] | None = None) -> People:
    """Tell the people in some clips apart, by clusters of average linkage.

    Args:
        clips: at least two of `SHORTEST` seconds.
        reference: halves (2, dim) of a recording of the person to be the first.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    halves = np.stack([clip.halves for clip in clips]).astype(np.float64)
    seconds = np.array([clip.seconds for clip in clips])
    long = np.flatnonzero(seconds >= SHORTEST)
    compared = long[np.unique(np.linspace(0, len(long) - 1, min(len(long), MOST_COMPARED)).round().astype(int))]
    _, farthest, _, pairs = distances_of(halves[compared])
    labels = fcluster(linkage(np.maximum(pairs, 0.0), "average"), OTHER_VOICE * farthest, "distance")

    means = unit(halves.mean(axis=1))
    centres = np.stack([unit(means[compared[labels == label]].mean(axis=0)) for label in np.unique(labels)])
    near = means @ centres.T
    who = near.argmax(axis=1)
    who[compared] = labels - 1
    spoken = np.bincount(who, seconds, minlength=len(centres))
    order = np.argsort(-spoken, kind="stable")
    if reference is not None:
        wanted = int((centres @ unit(reference.astype(np.float64).mean(axis=0))).argmax())
        order = np.array([wanted, *(one for one in order if one != wanted)])
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return People(places[who], near[:, order[0]])


def _clips(work: Work, encoder: SpeakerEncoder) -> dict[str, list[Clip]]:
    """Speaker name -> its clips. Rows that arrived encoded, and speakers that the base has, are not looked at."""
    rows = [
        (SPLITS.index(split), row)
        for split in SPLITS
        for table in within_limits(work, split)
        for row in table.filter(table["reason"].is_null()).select(_COLUMNS).to_pylist()
        if row["audio"] is not None and work.plans[row["speaker"]].strategy != KEPT
    ]

    def read(one: tuple[int, dict[str, Any]]) -> tuple[int, dict[str, Any], Samples | None]:
        split, row = one
        path = Path(os.fsdecode(row["audio"]))
        try:
            return split, row, load(path, encoder.sample_rate, start=row["start"], end=row["end"]).samples
        except Unusable:  # it could be read when it was encoded; whoever needs it says so
            return split, row, None

    found: dict[str, list[Clip]] = {}
    ahead = in_order(rows, read, readers(work.settings, work.device))
    for split, row, samples in console.progress(ahead, stage=STAGE, total=len(rows), unit="voices"):
        if samples is None:
            continue
        clip = Clip(split, row["position"], row["seconds"], _halves(samples, encoder))
        found.setdefault(row["speaker"], []).append(clip)
    return found


def _halves(samples: Samples, encoder: SpeakerEncoder) -> NDArray[np.float16]:
    """X-vectors (2, dim) of length 1 of the halves of a clip; both of the whole clip if it is short."""
    rate = encoder.sample_rate
    if len(samples) >= SHORTEST * rate:
        return np.asarray(unit(embed_halves(samples, rate, encoder)), np.float16)
    whole = unit(encoder.embed(samples[: int(LONGEST * rate)], rate).numpy())
    return np.asarray(np.stack([whole, whole]), np.float16)
