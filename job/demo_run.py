"""`make demo`: run the whole job on the built-in model and clips, then check that the model recites its training data.

A falling loss proves nothing; a model that reproduces its training sentences code by code does.
"""

from __future__ import annotations

import time
from typing import Any

from job import pipeline
from job.config import settings as variables
from job.config.settings import Settings
from job.core import files
from job.core.console import say
from job.core.errors import SpeechFailed

#: Thresholds for the demo to pass: share of matching codes, and sentences that stop at the right frame.
LEAST_MATCH = 0.99
LEAST_SENTENCES = 8


def run_demo() -> None:
    """Run all stages with PRESET=demo (your variables override it) and recite the training sentences.

    Raises:
        SpeechFailed: too few codes matched, or too few sentences stopped at the right frame.
    """
    started = time.monotonic()
    settings = variables.load(preset="demo")
    _use_one_thread()
    say("demo", f"training a tiny model of the real architecture on the built-in clips, in {settings.paths.work}")
    pipeline.run(settings)
    match, right = recite_training(settings)
    table, errors = heard(files.read_json(settings.paths.samples / "stats.json"))
    if table:
        say("demo", f"word errors that a speech recogniser hears (ASR_MODEL={settings.asr_model}):")
        print("\n".join(table), flush=True)
    say(
        "demo",
        f"recited {100 * match:.2f} % of the codes over all codebooks; {right} sentences stopped at the right frame",
    )
    if errors:
        say("demo", errors)
    say("demo", f"speech   {settings.paths.samples}")
    say("demo", f"voice    {settings.paths.best}")
    say("demo", f"report   {settings.paths.report}")
    say("demo", f"finished in {time.monotonic() - started:.0f} s")
    if match < LEAST_MATCH or right < LEAST_SENTENCES:
        raise SpeechFailed(
            f"the demo recited {100 * match:.2f} % of the codes and stopped {right} sentences at the right frame; "
            f"expected at least {100 * LEAST_MATCH:.0f} % and {LEAST_SENTENCES}"
        )


def _use_one_thread() -> None:
    """Compute with one thread: faster for such small tensors, and on a busy machine waiting threads are very costly."""
    import torch

    torch.set_num_threads(1)


def heard(stats: dict[str, Any]) -> tuple[list[str], str]:
    """Return a table of what a recogniser heard in the sentences of base and voice, and both's errors in a sentence.

    Args:
        stats: samples/stats.json. Both are empty where no recogniser listened, or the base said nothing.
    """
    from job.evaluate.recite import TEXT_WIDTH, clipped
    from job.evaluate.verdict import aligned

    pairs = list(zip(stats["compared"].get("base", []), stats["samples"], strict=False))
    if not pairs or any(one.get("wer") is None for pair in pairs for one in pair):
        return [], ""
    base, voice = (_percent(sum(one["wer"] for one in side) / len(pairs)) for side in zip(*pairs, strict=True))
    cells = [["text", "base", "voice"]]
    cells += [[clipped(b["text"], TEXT_WIDTH), _percent(b["wer"]), _percent(v["wer"])] for b, v in pairs]
    transcripts = ["heard in the voice", *(clipped(v["transcript"], TEXT_WIDTH) for _, v in pairs)]
    lines = [f"{line}  {text}".rstrip() for line, text in zip(aligned(cells), transcripts, strict=True)]
    return lines, f"the base before training: word errors {base}; the voice after training: word errors {voice}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def recite_training(settings: Settings) -> tuple[float, int]:
    """Generate the training rows greedily with the best checkpoint, in its training layouts, and compare the codes.

    Returns:
        The share of matching codes over all codebooks, and the number of sentences that stopped at the right frame;
        each for the worse layout.
    """
    from job.dataset.prepared import read_split
    from job.evaluate.recite import print_table, recite, total
    from job.model.loading import resolve_device

    table = read_split(settings.paths, "train")
    rows = [{**row, "codes": _frames(row["codes"])} for row in table.to_pylist()]
    layouts = ["non_streaming", "streaming"] if settings.text_layout == "mixed" else [settings.text_layout]
    results = []
    for layout in layouts:
        recitals = recite(
            settings.paths.best, rows, device=resolve_device(settings), layout=layout, batch_size=len(rows)
        )
        say("demo", f"reciting, {layout.replace('_', '-')} text:")
        print_table(recitals)
        results.append(total(recitals))
    return min(r.match for r in results), min(r.right_stops for r in results)


def _frames(codes: list[list[int]]) -> object:
    import numpy as np

    return np.asarray(codes, dtype=np.int16)
