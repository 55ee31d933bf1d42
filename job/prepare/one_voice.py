"""Is it one voice that stands under a speaker's name? Judged by how far apart the x-vectors of its clips are.

What is near and what is far differs between speaker encoders, so the recordings say it themselves: the two halves of
one clip are the same voice for sure. Where nearly all pairs of clips are farther apart than the halves of nearly all
clips, the name stands for many voices. One voice with two microphones, rooms or moods does not get there: half of its
pairs are as near as the halves are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from job.audio.clip import Samples
from job.core import console
from job.dataset.prepared import SPLITS
from job.model.speaker_encoder import SpeakerEncoder
from job.prepare.clips import ranked
from job.prepare.codec import Codec
from job.prepare.manifest_rows import speaker_key
from job.prepare.quality import EXAMPLES, Tally
from job.prepare.shards import Shards
from job.prepare.speakers import KEPT, clip_of

if TYPE_CHECKING:
    from job.prepare.work import Work

#: Speaker names looked at: those with the most rows.
MOST_NAMES = 20
#: Clips of a name looked at, at most and at least; fewer say nothing.
MOST_CLIPS, FEWEST_CLIPS = 32, 12
#: Clips under this many seconds have halves that are too short to know a voice by; no more than the second is used.
SHORTEST, LONGEST = 2.0, 8.0
#: Clips that could become the reference, which are looked at first.
CANDIDATES = 8
#: Halves of a clip at this percentile are as far apart as one voice gets.
ONE_VOICE_PERCENTILE = 90.0
#: Share of pairs of clips farther apart than that: of many voices, and of perhaps several. Measured with people's
#: voices and a trained encoder: one voice to 0.5, with half of the clips by telephone, in a hall, noisy or pitched
#: 0.77; three voices 0.73 to 0.84, eight 0.91, seventeen 0.98.
MANY_SHARE, SEVERAL_SHARE = 0.85, 0.6
#: And as many times the typical distance of halves must the typical distance of clips be: one voice to 1.7, voices
#: from 1.9.
FARTHER = 1.8
#: And as many times that must be, for many voices, the distance that a quarter of the pairs are within: of one voice in
#: two rooms, half are the same room's.
NEAR_PERCENTILE, NEAR = 25.0, 1.6
#: A clip whose typical distance from the others is so many times that of one voice, and of the other clips, is another
#: voice's.
OTHER_VOICE, OTHER_CLIP = 1.4, 1.6
#: Were more than this share of the clips other voices, none of them would be an exception.
MOST_OTHERS = 0.2
#: Distances (1 - cosine) under this are equal: a synthetic sound's halves may be the same to the last digit.
NO_DISTANCE = 0.01


@dataclass(slots=True)
class Spread:
    """How far apart the clips of a speaker's name are; distances are 1 - cosine.

    Attributes:
        clips: how many were looked at.
        halves: typical (median) distance between the halves of a clip.
        farthest_halves: their 90th percentile.
        between: typical distance between clips.
        near: distance that the nearest quarter of the pairs of clips are within.
        apart: share of pairs of clips farther apart than `farthest_halves`.
        others: which clips (numbers from 0) are another voice's.
    """

    clips: int
    halves: float
    farthest_halves: float
    between: float
    near: float
    apart: float
    others: list[int] = field(default_factory=list)

    @property
    def voices(self) -> str:
        """`one`, `several` (or one that was recorded in very different ways), or `many`."""
        halves = max(self.halves, NO_DISTANCE)
        if self.between < FARTHER * halves or self.apart < SEVERAL_SHARE:
            return "one"
        return "many" if self.apart >= MANY_SHARE and self.near >= NEAR * halves else "several"

    def figures(self) -> dict[str, Any]:
        """For quality.json: similarities (cosine) rather than distances."""
        return {
            "clips": self.clips,
            "voices": self.voices,
            "similarity_within_clips": round(1 - self.halves, 4),
            "similarity_between_clips": round(1 - self.between, 4),
            "pairs_apart": round(self.apart, 4),
        }


def spread(vectors: NDArray[np.float32]) -> Spread:
    """Measure x-vectors (clips, 2, dim) of the halves of at least two clips."""
    unit = vectors.astype(np.float64) / np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), 1e-12)
    halves = 1 - (unit[:, 0] * unit[:, 1]).sum(axis=1)
    distances = 1 - np.einsum("iad,jbd->ij", unit, unit) / 4
    pairs = distances[np.triu_indices(len(unit), 1)]
    farthest = max(float(np.percentile(halves, ONE_VOICE_PERCENTILE)), NO_DISTANCE)
    found = Spread(
        clips=len(unit),
        halves=float(np.median(halves)),
        farthest_halves=farthest,
        between=float(np.median(pairs)),
        near=float(np.percentile(pairs, NEAR_PERCENTILE)),
        apart=float((pairs > farthest).mean()),
    )
    if found.voices == "one":
        from_others = np.array([np.median(np.delete(row, n)) for n, row in enumerate(distances)])
        limit = max(OTHER_VOICE * farthest, OTHER_CLIP * float(np.median(from_others)))
        others = np.flatnonzero(from_others > limit)
        found.others = others.tolist() if len(others) <= MOST_OTHERS * len(unit) else []
    return found


def clips_to_hear(seconds: NDArray[np.float64], best: Sequence[int]) -> NDArray[np.int64]:
    """Which of a speaker's clips to look at: those that could become the reference, and others spread over the data.

    Args:
        seconds: (n,) lengths; NaN for clips that cannot be heard.
        best: numbers of the candidates.

    Returns:
        numbers in rising order, at most `MOST_CLIPS`.
    """
    long = np.flatnonzero(seconds >= SHORTEST)
    first = [n for n in best if seconds[n] >= SHORTEST][:CANDIDATES]
    rest = np.setdiff1d(long, first)
    picked = np.unique(np.linspace(0, len(rest) - 1, min(len(rest), MOST_CLIPS - len(first))).round().astype(int))
    return np.unique(np.array([*first, *rest[picked]], dtype=np.int64))


def embed_halves(samples: Samples, rate: int, encoder: SpeakerEncoder) -> NDArray[np.float32]:
    """x-vectors (2, dim) of the first and the second half of mono samples (n,) at `rate` Hz."""
    heard = samples[: int(LONGEST * rate)]
    middle = len(heard) // 2
    return np.stack([encoder.embed(half, rate).numpy() for half in (heard[:middle], heard[middle:])])


def judge(
    names: Mapping[str, int], tally: Tally, shards: Shards, codec: Codec, encoder: SpeakerEncoder | None
) -> dict[str, tuple[Spread, list[int]]]:
    """Measure the speakers with the most rows, as far as they have enough clips of recordings.

    Args:
        names: speaker -> its number in the tally, of those that are to be judged.
        encoder: the base's; with None nothing is judged.

    Returns:
        Speaker -> its spread, and the rows (numbers of kept rows) of other voices.
    """
    found: dict[str, tuple[Spread, list[int]]] = {}
    if encoder is None:
        return found
    rows_of = {name: np.flatnonzero(tally["speaker"] == number) for name, number in names.items()}
    most = sorted(rows_of, key=lambda name: (-len(rows_of[name]), name))[:MOST_NAMES]
    for name in sorted(most):
        rows = rows_of[name]
        seconds = np.where(tally["rate"][rows] > 0, tally.seconds[rows], np.nan)  # what came encoded is not heard
        chosen = rows[clips_to_hear(seconds, ranked(rows, tally, CANDIDATES).tolist())]
        if len(chosen) < FEWEST_CLIPS:
            continue
        clips = (clip_of(int(row), tally, shards, codec, encoder.sample_rate)[1] for row in chosen)
        measured = spread(np.stack([embed_halves(samples, encoder.sample_rate, encoder) for samples in clips]))
        found[name] = measured, [int(chosen[n]) for n in measured.others]
    return found


def problems(work: Work, tally: Tally) -> list[str]:
    """Judge the new speakers; keep the figures and the rows of other voices in the tally, and say what is doubtful.

    Returns:
        What the data must be refused for: one line for a name that many voices go by, where the user named neither
        SPEAKER_NAME nor a column of speakers, and so cannot have meant them to be one.
    """
    settings = work.settings
    names = {name: n for n, name in enumerate(tally.speakers) if work.plans[name].strategy != KEPT}
    found = []
    for name, (measured, others) in judge(names, tally, work.shards, work.codec, work.encoder).items():
        tally.voices[name] = measured.figures()
        tally.other_voices += others
        if measured.voices == "one":
            continue
        unnamed = "speaker_name" not in settings.model_fields_set and name == speaker_key(settings.speaker_name)
        fix = "name the column of the speakers (SPEAKER_COLUMN=...)"
        if unnamed and measured.voices == "many":
            found.append(f"{_described(name, measured)}: {fix}, or set SPEAKER_NAME=... to make one voice of them")
        else:
            console.warn("prepare", f"{_described(name, measured)}; if they are different people, {fix}")
    if tally.other_voices:
        first = tally.other_voices[:EXAMPLES]
        rows = [work.shards.row(SPLITS[tally["source"][n]], int(tally["position"][n])) for n in first]
        tally.warnings["other_voice"] = len(tally.other_voices), [str(row["id"]) for row in rows]
    return found


def _described(name: str, measured: Spread) -> str:
    count = "many voices" if measured.voices == "many" else "several voices, or one recorded in very different ways"
    return (
        f"speaker {name!r} sounds like {count}: of {measured.clips} clips, {measured.apart:.0%} of the pairs are "
        f"farther apart than the halves of one clip (similarity {1 - measured.between:.2f} between clips, "
        f"{1 - measured.halves:.2f} within)"
    )
