"""Compare several runs on one page and in one table: verdicts, figures, losses, and the settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.config.paths import Paths
from job.config.settings import Settings
from job.core import console, files, state
from job.core.errors import BadInput
from job.core.redact import redact
from job.evaluate import report
from job.evaluate.judges.figures import FIGURES
from job.evaluate.report_speech import as_dict, as_list, shown
from job.evaluate.verdict import aligned

STAGE = "report"
PAGE = "compare.html"
#: Settings that every run has its own of, so that they tell nothing.
PLACES = {"WORK_DIR", "OUTPUT_DIR", "HF_REPO_ID", "HF_LAST_REPO_ID"}
Row = tuple[str, list[str]]


@dataclass(frozen=True)
class Run:
    """What is known of one run: its name, `samples/stats.json`, the states of its stages, and its variables."""

    name: str
    stats: Mapping[str, Any]
    states: Mapping[str, Mapping[str, Any]]

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that its stages used, except secrets and those that change no result."""
        return {name: value for one in self.states.values() for name, value in as_dict(one.get("variables")).items()}


def compare(settings: Settings, works: Sequence[Path]) -> Path:
    """Print the table, and write the page beside the report of this WORK_DIR.

    Args:
        works: the work directories of the runs.

    Raises:
        BadInput: one of them is not a work directory.
    """
    runs = [_read(work, name) for work, name in zip(works, _names(works), strict=True)]
    figures, changed = figure_rows(runs), setting_rows(runs)
    heads = [run.name for run in runs]
    for line in aligned([["", *heads], *([label, *cells] for label, cells in [*figures, *changed])]):
        console.say(STAGE, line)
    for run in runs:
        console.say(STAGE, f"{run.name}: {_verdict(run) or 'no verdict yet'}")
    page = report.environment().get_template("compare.html")
    target = settings.paths.report.with_name(PAGE)
    verdicts = [(run.name, _verdict(run)) for run in runs]
    html = page.render(heads=heads, verdicts=verdicts, figures=figures, changed=changed)
    files.write_text(target, redact(html, settings.secrets))
    console.say(STAGE, f"{target}")
    return target


def figure_rows(runs: Sequence[Run]) -> list[Row]:
    """One row for each figure that a run has: the verdict's word, judges' figures, samples that pass, losses, time."""
    rows: list[Row] = [("Verdict", [_verdict(run).split(":")[0] or "–" for run in runs])]
    for figure in FIGURES:
        means = [{row.get("figure"): row.get("voice") for row in _comparison(run)}.get(figure.name) for run in runs]
        rows.append((figure.label, [figure.shown(mean) for mean in means]))
    samples = [[one for one in as_list(run.stats.get("samples")) if isinstance(one, dict)] for run in runs]
    passed = [f"{sum(bool(one.get('passed')) for one in some)} of {len(some)}" if some else "–" for some in samples]
    rows.append(("Samples that pass", passed))
    for label, name, digits in (
        ("Best loss", "best_loss", 4),
        ("at step", "best_step", 0),
        ("Steps", "steps", 0),
    ):
        rows.append((label, [shown(as_dict(_train(run).get("counts")).get(name), digits) for run in runs]))
    rows.append(("Minutes of training", [shown(_minutes(_train(run).get("seconds")), 1) for run in runs]))
    return [row for row in rows if any(cell != "–" for cell in row[1])]


def setting_rows(runs: Sequence[Run]) -> list[Row]:
    """The variables in which the runs differ."""
    names = sorted({name for run in runs for name in run.variables} - PLACES)
    told = [(name, [report.figure(run.variables.get(name)) for run in runs]) for name in names]
    return [(name, values) for name, values in told if len(set(values)) > 1]


def _names(works: Sequence[Path]) -> list[str]:
    """The directories' names, longer where two have the same one."""
    depth, longest = 1, max(len(work.absolute().parts) for work in works)
    while depth < longest and len({work.absolute().parts[-depth:] for work in works}) < len(works):
        depth += 1
    return [str(Path(*work.absolute().parts[-depth:])) for work in works]


def _read(work: Path, name: str) -> Run:
    paths = Paths(work=work.expanduser().absolute(), output=work / "output")
    states = {path.stem: state.read(paths.state, path.stem) or {} for path in sorted(paths.state.glob("*.json"))}
    if not states:
        raise BadInput(f"{work}: not the WORK_DIR of a run (there is nothing in {paths.state})")
    try:
        stats = files.read_json(paths.samples / "stats.json")
    except (OSError, ValueError):
        stats = {}
    return Run(name, as_dict(stats), states)


def _comparison(run: Run) -> list[dict[str, Any]]:
    return [row for row in as_list(run.stats.get("comparison")) if isinstance(row, dict)]


def _train(run: Run) -> Mapping[str, Any]:
    return run.states.get("train", {})


def _verdict(run: Run) -> str:
    return str(as_dict(run.stats.get("summary")).get("verdict") or "")


def _minutes(seconds: Any) -> float | None:
    return seconds / 60 if isinstance(seconds, (int, float)) else None
