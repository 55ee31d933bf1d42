"""The list of judges. A new one is a module of this package with a `load`, and a line in `LOADERS`."""

from __future__ import annotations

from collections.abc import Callable

from job.config.settings import Settings
from job.core import console
from job.core.errors import BadInput, first_line
from job.evaluate.judges import independent, intelligibility, mos, prosody, similarity
from job.evaluate.judges.judge import Judge

#: (settings, device) -> the judge; None where it has nothing to judge with.
LOADERS: tuple[Callable[[Settings, str], Judge | None], ...] = (
    mos.load,
    similarity.load,
    independent.load,
    intelligibility.load,
    prosody.load,
)


def load_judges(settings: Settings, device: str) -> list[Judge]:
    """Load all judges, before anything is spoken: a wrong name must not cost the speech.

    One that comes with the job and cannot be loaded is left out, with one line.

    Raises:
        BadInput: a model that a variable names cannot be loaded.
    """
    judges = []
    for load in LOADERS:
        try:
            judge = load(settings, device)
        except BadInput:
            raise
        except Exception as error:  # whatever its library raises: the other judges can do without it
            name = load.__module__.rpartition(".")[2]
            console.warn("synthesize", f"{name} is not judged: {first_line(error)}")
            continue
        if judge is not None:
            judges.append(judge)
    return judges
