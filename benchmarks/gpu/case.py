"""What a case is: a function that computes something on a device and says what it has found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from job.config import settings as variables
from job.config.settings import Settings
from job.model.loading import has_bf16


class NotHere(Exception):
    """This machine cannot do the case; the message says what is missing. It counts as not done, not as failed."""


@dataclass(frozen=True)
class Context:
    """Where a case runs.

    Attributes:
        device: of torch, with its number.
        small: tiny shapes, where there is no GPU.
        work: a directory that all cases of a check share.
        until: `time.monotonic()` at which the case has to be done; what can take any time ends before.
    """

    device: torch.device
    small: bool
    work: Path
    until: float

    @property
    def on_gpu(self) -> bool:
        """Whether it is a CUDA device."""
        return self.device.type == "cuda"

    def own_file(self) -> str:
        """An empty file for ENV_FILE: a `.env` where the check is run has the user's own variables."""
        path = self.work / "empty.env"
        path.touch()
        return str(path)

    def settings(self, values: dict[str, str]) -> Settings:
        """The job's settings by these variables alone."""
        return variables.load({**values, "ENV_FILE": self.own_file()})

    def want_for(self, weights: str) -> None:
        """See whether the device can train with a value of MASTER_WEIGHTS.

        Raises:
            NotHere: it has no bf16.
        """
        if weights != "fp32" and self.on_gpu and not has_bf16(self.device):
            raise NotHere(f"MASTER_WEIGHTS={weights} takes a GPU with bf16 (compute capability 8.0 or higher)")

    def remember(self, name: str, value: Any) -> None:
        """Keep a figure for cases that come later, in whatever process."""
        (self.work / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")

    def recall(self, name: str) -> Any:
        """What an earlier case kept; None if it was not done."""
        path = self.work / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


@dataclass
class Finding:
    """What a case has found: figures, and what is wrong about them.

    Attributes:
        case: its name, or that of a part of it.
        figures: JSON-ready.
        wrong: in a few words each; empty where all is right.
        undone: why this part was not done; empty where it was.
    """

    case: str
    figures: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    undone: str = ""

    def most(self, name: str, value: float, bound: float) -> None:
        """A figure that must not be above `bound`, nor not a number."""
        self.figures[name] = rounded(value)
        if not value <= bound:
            self.wrong.append(f"{name} is {rounded(value)}, more than {bound:g}")

    def least(self, name: str, value: float, bound: float) -> None:
        """A figure that must not be below `bound`, nor not a number."""
        self.figures[name] = rounded(value)
        if not value >= bound:
            self.wrong.append(f"{name} is {rounded(value)}, less than {bound:g}")

    def holds(self, name: str, value: bool, otherwise: str) -> None:
        """Something that must be so."""
        self.figures[name] = value
        if not value:
            self.wrong.append(otherwise)


@dataclass(frozen=True)
class Case:
    """A case of the check.

    Attributes:
        name: unique.
        run: yields findings, of the whole or of its parts.
        limit: seconds after which it is ended, and has failed.
        gpus: fewest CUDA devices that it takes; 0 for one that a CPU does as well, with tiny shapes.
        alone: in a process of its own, because it leaves something behind or measures memory.
    """

    name: str
    run: Callable[[Context], Iterator[Finding]]
    limit: float
    gpus: int = 0
    alone: bool = False


def rounded(value: float) -> float:
    """To four significant digits; JSON has no word for what is not finite, so that becomes -1."""
    if not math.isfinite(value):
        return -1.0
    return float(f"{value:.4g}")


def apart(found: torch.Tensor, exact: torch.Tensor) -> float:
    """How far the worst row is from what it should be, as a share of its norm, or of the rows' root mean square norm.

    Not of all values together: a row that is wholly wrong among a hundred thousand would not be seen. Of the larger of
    the two norms: roundings are a share of a row's own values, and a row of nearly nothing has no digits to speak of.

    Args:
        found, exact: (..., D), the last axis being the rows'.
    """
    found, exact = (t.detach().double().reshape(-1, t.shape[-1]) for t in (found, exact))
    if not bool(torch.isfinite(found).all()):
        return math.inf
    norms = exact.norm(dim=-1)
    scale = norms.clamp(min=max(1e-300, float(norms.square().mean().sqrt())))
    return float(((found - exact).norm(dim=-1) / scale).max())
