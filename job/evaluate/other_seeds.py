"""Say a text with several seeds, to find a voice that is another person each time.

Speech is sampled, and a voice that was hardly learned is drawn with it: each text then sounds like somebody else. A
single seed cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from job.config.settings import Settings
from job.evaluate.speaking import Sample, speak_with_seeds
from job.evaluate.spoken_texts import Utterance

if TYPE_CHECKING:
    from qwen_tts import Qwen3TTSModel

#: Further seeds of a text, and the number of speakers of whom a text is said with them.
OTHERS, SPEAKERS = 2, 4
#: A difference in similarity between two seeds from which it is warned about; under 0.02 nobody would hear it.
APART = 0.15


def say_again(
    model: Qwen3TTSModel, utterances: Sequence[Utterance], settings: Settings, frames_per_character: float
) -> dict[int, list[Sample]]:
    """Say one text of each speaker with further seeds.

    Returns:
        index of the text -> its samples. Empty with GREEDY, where seeds change nothing.
    """
    if settings.greedy:
        return {}
    by_speaker: dict[str, list[int]] = {}
    for number, one in enumerate(utterances):
        by_speaker.setdefault(one.speaker, []).append(number)
    chosen = [
        sorted(numbers, key=lambda number: len(utterances[number].text))[len(numbers) // 2]
        for numbers in list(by_speaker.values())[:SPEAKERS]
    ]
    texts = [utterances[number] for number in chosen]
    said = speak_with_seeds(model, texts, settings, frames_per_character, range(1, OTHERS + 1))
    return {number: list(samples) for number, samples in zip(chosen, zip(*said, strict=True), strict=True)}


def add(by_seed: Mapping[int, Sequence[dict[str, Any]]], described: Sequence[Mapping[str, Any]]) -> list[str]:
    """Add to a text's figures the least similarity that it has with any seed; return a sentence for each that changes.

    Args:
        by_seed: index of a text -> the judges' figures with each seed, those of its sample first.
        described: the samples, for the sentences.
    """
    found = []
    for number, told in by_seed.items():
        values = [float(one["similarity"]) for one in told if one.get("similarity") is not None]
        if len(values) < len(told):
            continue
        told[0]["similarity_seeds"] = min(values)
        if max(values) - min(values) > APART:
            sample = described[number]
            found.append(
                f"{sample['speaker']} is not the same voice with every seed: {sample['text'][:40]!r} is similar to the "
                f"speaker by {', '.join(f'{value:.0%}' for value in values)}; more speech or more steps may help, or a "
                "lower TEMPERATURE (TUNE_SPEECH=true)"
            )
    return found
