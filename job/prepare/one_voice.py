"""Check that each speaker name is a single voice, by the distances between the x-vectors of its clips.

What counts as near or far differs between speaker encoders, so the scale comes from the recordings: the two halves of
one clip are certainly the same voice. If nearly all pairs of clips are farther apart than the halves of nearly all
clips, the name stands for many voices. One voice with two microphones, rooms or moods does not reach that: half of its
pairs are as near as the halves.
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
from job.prepare.speakers import CAME, KEPT, clip_of

if TYPE_CHECKING:
    from job.prepare.work import Work

#: Most speaker names to check: those with the most rows.
MOST_NAMES = 20
#: Most and fewest clips to check per name; fewer are not conclusive.
MOST_CLIPS, FEWEST_CLIPS = 32, 12
#: Seconds: the halves of clips under the first are too short to identify a voice; longer clips are cut to the second.
SHORTEST, LONGEST = 2.0, 8.0
#: Most candidates for the reference clip, which are checked first.
CANDIDATES = 8
#: Percentile of the distances between halves of a clip that is taken as the largest distance within one voice.
ONE_VOICE_PERCENTILE = 90.0
#: Share of pairs of clips farther apart than that: many voices, perhaps several. Measured with people's
#: voices and a trained encoder: one voice to 0.5, with half of the clips by telephone, in a hall, noisy or pitched
#: 0.77; three voices 0.73 to 0.84, eight 0.91, seventeen 0.98.
MANY_SHARE, SEVERAL_SHARE = 0.85, 0.6
#: The typical distance between clips must also be this many times that between halves: one voice has up to 1.7,
#: several voices from 1.9.
FARTHER = 1.8
#: For many voices, the distance at this percentile of the pairs must also be `NEAR` times that between halves: with one
#: voice in two rooms, half of the pairs are from the same room.
NEAR_PERCENTILE, NEAR = 25.0, 1.6
#: A clip is another voice's if its typical distance from the others is this many times the largest within one voice,
#: and this many times that of the other clips.
OTHER_VOICE, OTHER_CLIP = 1.4, 1.6
#: If more than this share of the clips look like other voices, none counts as an exception.
MOST_OTHERS = 0.2
#: Distances (1 - cosine) are at least this: the halves of a synthetic sound may be the same to the last digit.
NO_DISTANCE = 0.01


@dataclass(slots=True)
class Spread:
    """Distances between the clips of a speaker name, as 1 - cosine.

    Attributes:
        clips: number of clips checked.
        halves: typical (median) distance between the halves of a clip.
        farthest_halves: their 90th percentile.
        between: typical distance between clips.
        near: 25th percentile of the distances between pairs of clips.
        apart: share of pairs of clips farther apart than `farthest_halves`.
        others: indices of the clips that are another voice's.
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
        """Figures for quality.json: cosine similarities rather than distances."""
        return {
            "clips": self.clips,
            "voices": self.voices,
            "similarity_within_clips": round(1 - self.halves, 4),
            "similarity_between_clips": round(1 - self.between, 4),
            "pairs_apart": round(self.apart, 4),
        }


def unit(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Scale vectors (..., dim) to length 1."""
    exact = vectors.astype(np.float64)
    return np.asarray(exact / np.maximum(np.linalg.norm(exact, axis=-1, keepdims=True), 1e-12))


def distances_of(
    halves: NDArray[np.float64],
) -> tuple[NDArray[np.float64], float, NDArray[np.float64], NDArray[np.float64]]:
    """Distances (1 - cosine) from x-vectors (clips, 2, dim) of length 1 of the halves of clips.

    Returns:
        (clips,) between the halves of each; the largest within one voice; (clips, clips) between clips; and the same of
        each pair once, as `scipy.cluster` takes them.
    """
    within = 1 - (halves[:, 0] * halves[:, 1]).sum(axis=1)
    farthest = max(float(np.percentile(within, ONE_VOICE_PERCENTILE)), NO_DISTANCE)
    between = np.asarray(1 - np.einsum("iad,jbd->ij", halves, halves) / 4)
    return within, farthest, between, between[np.triu_indices(len(halves), 1)]


def spread(vectors: NDArray[np.float32]) -> Spread:
    """Compute the `Spread` from x-vectors (clips, 2, dim) of the halves of at least two clips."""
    halves, farthest, distances, pairs = distances_of(unit(vectors))
    found = Spread(
        clips=len(vectors),
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
        found.others = others.tolist() if len(others) <= MOST_OTHERS * len(vectors) else []
    return found


def clips_to_hear(seconds: NDArray[np.float64], best: Sequence[int]) -> NDArray[np.int64]:
    """Select the clips of a speaker to check: candidates for the reference, and others spread evenly over the data.

    Args:
        seconds: (n,) lengths; NaN for clips without a recording.
        best: indices of the candidates.

    Returns:
        indices in ascending order, at most `MOST_CLIPS`.
    """
    long = np.flatnonzero(seconds >= SHORTEST)
    first = [n for n in best if seconds[n] >= SHORTEST][:CANDIDATES]
    rest = np.setdiff1d(long, first)
    picked = np.unique(np.linspace(0, len(rest) - 1, min(len(rest), MOST_CLIPS - len(first))).round().astype(int))
    return np.unique(np.array([*first, *rest[picked]], dtype=np.int64))


def embed_halves(samples: Samples, rate: int, encoder: SpeakerEncoder) -> NDArray[np.float32]:
    """Compute x-vectors (2, dim) of the first and second half of mono samples (n,) at `rate` Hz."""
    heard = samples[: int(LONGEST * rate)]
    middle = len(heard) // 2
    return np.stack([encoder.embed(half, rate).numpy() for half in (heard[:middle], heard[middle:])])


def judge(
    names: Mapping[str, int], tally: Tally, shards: Shards, codec: Codec, encoder: SpeakerEncoder | None
) -> dict[str, tuple[Spread, list[int]]]:
    """Measure the speakers with the most rows, if they have enough clips with recordings.

    Args:
        names: speaker -> its number in the tally, for the speakers to check.
        encoder: the base model's speaker encoder; with None nothing is checked.

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
        seconds = np.where(
            tally["rate"][rows] > 0, tally.seconds[rows], np.nan
        )  # rows that arrived encoded are not checked
        chosen = rows[clips_to_hear(seconds, ranked(rows, tally, CANDIDATES).tolist())]
        if len(chosen) < FEWEST_CLIPS:
            continue
        clips = (clip_of(int(row), tally, shards, codec, encoder.sample_rate)[1] for row in chosen)
        measured = spread(np.stack([embed_halves(samples, encoder.sample_rate, encoder) for samples in clips]))
        found[name] = measured, [int(chosen[n]) for n in measured.others]
    return found


def problems(work: Work, tally: Tally) -> list[str]:
    """Check the new speakers, record figures and rows of other voices in the tally, and warn of doubtful cases.

    Returns:
        Reasons to refuse the data: one line for a name that stands for many voices, if the user set neither
        SPEAKER_NAME nor a speaker column, and so cannot have meant them to be one.
    """
    settings = work.settings
    names = {name: n for n, name in enumerate(tally.speakers) if work.plans[name].strategy not in (KEPT, CAME)}
    found = []
    for name, (measured, others) in judge(names, tally, work.shards, work.codec, work.encoder).items():
        tally.voices[name] = measured.figures()
        tally.other_voices += others
        if measured.voices == "one":
            continue
        unnamed = "speaker_name" not in settings.model_fields_set and name == speaker_key(settings.speaker_name)
        fix = "name the column of the speakers (SPEAKER_COLUMN=...), keep one of them (KEEP_SPEAKERS=main), "
        fix += "make each a speaker (KEEP_SPEAKERS=split)"
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
