"""How well people are told apart in conversations (KEEP_SPEAKERS), with a speaker encoder that was trained on people.

Needs recordings of several people, a folder each, and the weights of Resemblyzer (Apache 2.0, in its wheel):

    pip install --no-deps --target /tmp/resemblyzer resemblyzer
    python benchmarks/people.py VOICES --weights /tmp/resemblyzer/resemblyzer/pretrained.pt

Recordings are cut into clips of about `CLIP` seconds, and conversations drawn from them: a host with all clips, and
guests with a third to two thirds as many each.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT  # noqa: F401 - finds the job
from resemblyzer_network import Resemblyzer

from job.audio.audio_files import READABLE
from job.audio.clip import load
from job.prepare.clip_voices import Clip, halves_of
from job.prepare.main_speaker import people
from job.prepare.one_voice import FEWEST_CLIPS, SHORTEST

CLIP = 4.0
CONVERSATIONS = 100


def clips_of(directory: Path, encoder: Any) -> list[Clip]:
    """The clips of one person."""
    found = []
    for path in sorted(one for one in directory.rglob("*") if one.suffix.lower() in READABLE):
        wave = load(path, encoder.sample_rate).samples
        for part in np.array_split(wave, max(1, round(len(wave) / encoder.sample_rate / CLIP))):
            found.append(Clip(0, 0, len(part) / encoder.sample_rate, halves_of(part, encoder)))
    return found


def conversation(voices: list[list[Clip]], count: int, rng: np.random.Generator) -> tuple[list[Clip], np.ndarray]:
    """Draw a conversation of `count` people, and who speaks in each clip; number 0 speaks most."""
    most = sorted(rng.permutation(len(voices))[:count], key=lambda one: -sum(clip.seconds for clip in voices[one]))
    said = [(clip, 0) for clip in voices[most[0]]]
    for number, one in enumerate(most[1:], start=1):
        wanted = max(2, round(len(voices[most[0]]) * rng.uniform(1 / 3, 2 / 3)))
        said += [(voices[one][n], number) for n in rng.permutation(len(voices[one]))[:wanted]]
    return [clip for clip, _ in said], np.array([number for _, number in said])


def main() -> None:
    """Print a line for each number of people."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("voices", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--people", type=int, nargs="+", default=[1, 2, 3, 5])
    given = parser.parse_args()
    encoder: Any = Resemblyzer(given.weights)
    voices = [clips_of(one, encoder) for one in sorted(given.voices.iterdir()) if one.is_dir()]
    voices = [one for one in voices if sum(clip.seconds >= SHORTEST for clip in one) >= FEWEST_CLIPS // 2]
    print(f"{len(voices)} people, {sum(map(len, voices))} clips")
    print("| people | conversations | purity, mean (least) | that person's kept | clusters of 3 clips | their purity |")
    print("| --- | --- | --- | --- | --- | --- |")
    for count in given.people:
        rng = np.random.default_rng(count)
        purity: list[float] = []
        kept: list[float] = []
        clusters: list[float] = []
        pure: list[float] = []
        while len(purity) < CONVERSATIONS:
            clips, who = conversation(voices, count, rng)
            if sum(clip.seconds >= SHORTEST for clip in clips) < FEWEST_CLIPS:
                continue
            told = people(clips).who
            main = told == 0
            host = np.bincount(who[main]).argmax()
            purity.append(float((who[main] == host).mean()))
            kept.append(float(main[who == host].mean()))
            large = [who[told == one] for one in np.unique(told) if (told == one).sum() >= 3]
            clusters.append(len(large))
            pure.append(sum(np.bincount(one).max() for one in large) / sum(map(len, large)))
        print(
            f"| {count} | {CONVERSATIONS} | {np.mean(purity):.1%} ({min(purity):.0%}) | {np.mean(kept):.1%} "
            f"({min(kept):.0%}) | {np.mean(clusters):.1f} | {np.mean(pure):.1%} |"
        )


if __name__ == "__main__":
    main()
