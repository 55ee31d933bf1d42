"""Judge all that was said and recorded in a run, and compare it: the contents of `samples/stats.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from job.config.settings import Settings
from job.core import console
from job.evaluate import baselines, checks, drifting, other_seeds, own
from job.evaluate.comparison import compare, mean
from job.evaluate.judges.judge import Clip, Judge
from job.evaluate.judges.ratings import Ratings
from job.evaluate.samples import by_origin, file_name, heard_as, summarize
from job.evaluate.speaking import Sample
from job.evaluate.verdict import cells, verdict


@dataclass
class Spoken:
    """All sounds of a run: `samples` of the voice and of the base model, in the order of the texts, and recordings.

    Attributes:
        samples: source from `comparison.SOURCES` -> generated samples.
        recorded: source -> recordings.
        own: speaker -> properties of its recordings.
        references: recordings that the base model may clone from.
        again: index of a text -> the same text with other seeds.
        frames_per_character: average over the data.
        samples_per_frame: of the codec.
    """

    samples: dict[str, list[Sample]]
    recorded: dict[str, list[Clip]]
    own: dict[str, own.Own]
    references: list[baselines.Recording]
    again: dict[int, list[Sample]]
    frames_per_character: float
    samples_per_frame: int

    def files(self, source: str) -> list[str]:
        """Return the names of a source's files in `samples/`."""
        names = [file_name(number, one.utterance) for number, one in enumerate(self.samples[source], start=1)]
        return names if source == "voice" else [f"{source}/{name}" for name in names]

    def sounds(self) -> dict[str, Sample]:
        """Map each file name in `samples/` to its sample."""
        return {
            name: sample
            for source, samples in self.samples.items()
            for name, sample in zip(self.files(source), samples, strict=True)
        }


def judged(
    settings: Settings,
    judges: Sequence[Judge],
    spoken: Spoken,
    described: list[dict[str, Any]],
    no_base: str | None,
    besides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Have all sounds judged; returns the result for stats.json and adds the figures to `described`.

    `besides` is what `kept.of` found.
    """
    besides = dict(besides or {})
    clips = {source: [heard_as(one) for one in samples] for source, samples in spoken.samples.items()}
    clips.update(spoken.recorded)
    again = [heard_as(one) for some in spoken.again.values() for one in some]
    own_clips = clips.get("recordings") or clips.get("codec") or []
    ratings = Ratings(judges, settings.paths.judged)
    said = iter(ratings.of(own_clips, [*(clip for some in clips.values() for clip in some), *again]))
    told = {source: [next(said) for _ in some] for source, some in clips.items()}
    by_seed = {number: [told["voice"][number], *(next(said) for _ in some)] for number, some in spoken.again.items()}
    warnings = other_seeds.add(by_seed, described)
    warnings += drifting.warnings(described, told["voice"], told.get("codec") or told.get("recordings") or [])
    warnings += besides.pop("warnings", [])
    for line in warnings:
        console.warn("synthesize", line)
    owns = _of_recordings(clips, told)
    for one, figures in zip(described, told["voice"], strict=True):
        one.update(figures)
        found = checks.by_judges(one, owns.get(one["speaker"].lower(), {}))
        if found and one["problems"] != ["silent"]:
            one.update(problems=[*one["problems"], *found], passed=False)
            console.say("synthesize", f"{settings.paths.samples / one['file']}: {'; '.join(found)}")
    rows = compare(told)
    failed = sum(not one["passed"] for one in described)
    summary = summarize(described)
    summary["verdict"] = verdict(rows, failed, len(described), settings.synth_gate_share, no_base)
    others: dict[str, list[dict[str, Any]]] = {}
    for source, figures_of in told.items():
        if source == "voice":
            continue
        names = spoken.files(source) if source in spoken.samples else [None] * len(figures_of)
        others[source] = [
            {"file": name, "text": clip.text, "speaker": clip.speaker, **figures}
            for name, clip, figures in zip(names, clips[source], figures_of, strict=True)
        ]
    return {
        "samples": described,
        "summary": summary,
        "comparison": rows,
        "table": cells(rows),
        "by_origin": by_origin(described),
        "compared": others,
        "warnings": warnings,
        "kept": besides,
        "judges": {name: account.as_dict() for name, account in ratings.accounts.items()},
    }


def _of_recordings(
    clips: Mapping[str, Sequence[Clip]], told: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, dict[str, float | None]]:
    """The judges' mean figures for each speaker's recordings, after the codec if known: the best that can be said."""
    source = "codec" if told.get("codec") else "recordings"
    by_speaker: dict[str, list[Mapping[str, Any]]] = {}
    for clip, figures in zip(clips.get(source, ()), told.get(source, ()), strict=True):
        by_speaker.setdefault(clip.speaker.lower(), []).append(figures)
    wanted = ("cer", "similarity", "similarity_independent")
    return {name: {figure: mean(some, figure) for figure in wanted} for name, some in by_speaker.items()}
