"""`make demo`: the whole job on the embedded model and clips, ended by reciting.

A loss that falls proves nothing; a model that says its training sentences, code by code, does.
"""

from __future__ import annotations

import time

from job import pipeline
from job.config import settings as variables
from job.config.settings import Settings
from job.core.console import say
from job.core.errors import SpeechFailed

#: What the demo must reach to be a demo: share of codes, and sentences that stop at the right frame.
LEAST_MATCH = 0.99
LEAST_SENTENCES = 8


def run_demo() -> None:
    """Run all stages with PRESET=demo (your variables override it) and recite the training sentences.

    Raises:
        SpeechFailed: fewer codes were recited, or fewer sentences stopped right, than the demo must reach.
    """
    started = time.monotonic()
    settings = variables.load(preset="demo")
    _use_one_thread()
    say("demo", f"a tiny model of the real architecture, trained on the embedded clips, in {settings.paths.work}")
    pipeline.run(settings)
    match, right = recite_training(settings)
    say("demo", f"speech   {settings.paths.samples}")
    say("demo", f"report   {settings.paths.report}")
    say("demo", f"voice    {settings.paths.best}")
    say(
        "demo", f"recited {100 * match:.2f} % of the codes over all books, {right} sentences stopped at the right frame"
    )
    say("demo", f"finished in {time.monotonic() - started:.0f} s")
    if match < LEAST_MATCH or right < LEAST_SENTENCES:
        raise SpeechFailed(
            f"the demo recited {100 * match:.2f} % of the codes and {right} right stops; it should reach "
            f"{100 * LEAST_MATCH:.0f} % and {LEAST_SENTENCES}"
        )


def _use_one_thread() -> None:
    """Tensors this small are computed faster by one thread, and on a busy machine threads that wait cost many times."""
    import torch

    torch.set_num_threads(1)


def recite_training(settings: Settings) -> tuple[float, int]:
    """Say the training rows greedily with the best checkpoint, in the layouts it was trained in, and compare.

    Returns:
        The share of codes that agree over all books, and the sentences that stopped right, each in the worse layout.
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
