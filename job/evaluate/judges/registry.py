"""Registry of judges. To add one, write a module with a `load` and add it to `LOADERS` (or call `register`)."""

from __future__ import annotations

from collections.abc import Callable

from job.config.settings import Settings
from job.core import console
from job.core.errors import BadInput, first_line
from job.evaluate.judges import independent, intelligibility, mos, prosody, similarity
from job.evaluate.judges.figures import BY_NAME, FIGURES, Figure
from job.evaluate.judges.judge import Judge

Loader = Callable[[Settings, str], Judge | None]

#: (settings, device) -> the judge; None if it is not configured.
LOADERS: list[Loader] = [
    mos.load,
    similarity.load,
    independent.load,
    intelligibility.load,
    prosody.load,
]


def register(load: Loader, *told: Figure) -> None:
    """Register another judge of test speech. `told` are the figures it returns, for the tables and the verdict."""
    LOADERS.append(load)
    for figure in told:
        FIGURES.append(figure)
        BY_NAME[figure.name] = figure


def unregister(load: Loader, *told: Figure) -> None:
    """Undo `register`."""
    LOADERS.remove(load)
    for figure in told:
        FIGURES.remove(figure)
        del BY_NAME[figure.name]


def load_judges(settings: Settings, device: str) -> list[Judge]:
    """Load all judges, before anything is spoken, so that a wrong name fails early and loses no speech.

    A built-in judge that cannot be loaded is skipped with one message.

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
