"""HTML report of a run: speech samples, training curves, data and settings.

One self-contained HTML file, sounds included, built from whatever exists: every section says so when its data is
missing. Does not need torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from job import __version__
from job.config.paths import Paths
from job.config.settings import Settings, variables
from job.core import console, files
from job.core.errors import BadInput
from job.core.redact import redact
from job.evaluate.charts import Line, describe, line_chart, number
from job.evaluate.embedded import Sounds
from job.evaluate.report_speech import (
    as_dict,
    as_float,
    as_list,
    bases,
    comparison_table,
    judges_told,
    kept_table,
    origins_table,
    sample_row,
    shown,
    summary_told,
)
from job.model import card_facts

STAGE = "report"
TEMPLATES = Path(__file__).parent / "templates"
#: Charts: field of the logs, title, and whether a logarithmic scale helps.
CHARTS = (
    ("loss", "Loss", True),
    ("talker_loss", "Talker loss (codebook 0)", True),
    ("sub_talker_loss", "Sub-talker loss (other codebooks)", True),
    ("learning_rate", "Learning rate", False),
)
#: Rows of nested figures shown for one entry of quality.json (a data set can have thousands of speakers).
MOST_ENTRIES = 12


def run(settings: Settings) -> dict[str, Any]:
    """Write `report/index.html`.

    Returns:
        Counts for the stage's state file: samples and failed ones on the page, log lines drawn.
    """
    counts = write_page(settings)
    console.say(STAGE, f"{settings.paths.report}")
    stats = _json(settings.paths.samples / "stats.json")
    if answer := str(as_dict(stats.get("summary")).get("verdict") or ""):
        console.say(STAGE, answer)
    return counts


def write_page(settings: Settings, *, training: bool = False) -> dict[str, Any]:
    """Write the page and return its counts; while `training`, without the speech and the choice of an earlier run."""
    paths = settings.paths
    steps, validation = read_log(paths.training_log), read_log(paths.validation_log)
    stats = {} if training else _json(paths.samples / "stats.json")
    base = bases(stats)
    samples = [sample_row(one, base.get(number)) for number, one in enumerate(stats.get("samples", []))]
    sounds = Sounds()
    for one in [part for sample in samples for part in (sample, sample["base"]) if part]:
        one["url"] = sounds.address(paths.samples / one["file"], one["url"])
    summary = as_dict(stats.get("summary"))
    answer = str(summary.get("verdict") or "")
    page = (
        environment()
        .get_template("report.html")
        .render(
            voices=card_facts.speakers(settings),
            model=settings.init_model_path,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            version=__version__,
            training=training,
            verdict=key_figures(samples, steps, validation),
            answer=answer,
            chosen=None if training else card_facts.chosen(settings),
            tuned=None if training else card_facts.tuned(settings),
            samples=samples,
            summary=summary_told(summary),
            comparison=comparison_table(stats),
            kept=kept_table(stats),
            not_asked=[f"{name}: {why}" for name, why in as_dict(as_dict(stats.get("kept")).get("left_out")).items()],
            warnings=[str(one) for one in as_list(stats.get("warnings"))],
            judges=judges_told(stats),
            origins=origins_table(stats),
            charts=charts(steps, validation),
            figures=flatten(_json(paths.quality)),
            problems=[str(one) for one in as_list(_json(paths.quality).get("problems"))],
            quality_page="../data/quality.html" if paths.quality_page.is_file() else None,
            stages=stages(paths),
            versions=versions(paths),
            changed=changed_settings(settings),
            settings=sorted(settings.public().items()),
        )
    )
    files.write_text(paths.report, redact(page, _secrets(settings)))
    failed = sum(not one["passed"] for one in samples)
    return {"samples": len(samples), "failed": failed, "log_lines": len(steps) + len(validation)}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a training or validation log by step, tolerating what a killed run leaves.

    A truncated line is ignored; if a resumed run has logged a step again, the later line counts.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    by_step: dict[int, dict[str, Any]] = {}
    for line in lines:
        try:
            record = json.loads(line)
            by_step[int(record["step"])] = record
        except (ValueError, KeyError, TypeError):
            continue
    return [by_step[step] for step in sorted(by_step)]


def charts(training: list[dict[str, Any]], validation: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return title, drawing and description of each chart that has data."""
    found = []
    for field, title, may_be_log in CHARTS:
        held_out = "validation" if is_held_out(validation) else "training rows, as there are no validation rows"
        logs = (("training", training, "train"), (held_out, validation, "validation"))
        lines = [Line(name, points, style) for name, log, style in logs if (points := _points(log, field))]
        drawing = line_chart(title, lines, f"chart-{field.replace('_', '-')}", may_be_log=may_be_log)
        if drawing is not None:
            found.append({"title": title, "svg": drawing, "lines": lines, "words": [describe(line) for line in lines]})
    return found


def is_held_out(validation: list[dict[str, Any]]) -> bool:
    """Whether validation rows were measured at each validation; where there are none, training rows are."""
    return all(record.get("split") != "train" for record in validation)


def key_figures(
    samples: list[dict[str, Any]], training: list[dict[str, Any]], validation: list[dict[str, Any]]
) -> list[tuple[str, str, bool]]:
    """Return the key figures at the top: (label, value, whether it is bad news)."""
    found: list[tuple[str, str, bool]] = []
    if samples:
        failed = sum(not one["passed"] for one in samples)
        found.append(("Samples that pass", f"{len(samples) - failed} of {len(samples)}", failed > 0))
    if training:
        found.append(("Optimizer steps", number(float(training[-1]["step"])), False))
    best = "Best validation loss" if is_held_out(validation) else "Best loss on training rows"
    for name, log, pick in (("Last training loss", training[-1:], None), (best, validation, min)):
        values = [value for _, value in Line(name, _points(log, "loss"), "train").finite]
        if values:
            found.append((name, number(pick(values) if pick else values[-1]), False))
        elif log:
            found.append((name, "not finite", True))
    return found


def flatten(value: dict[str, Any]) -> list[tuple[str, str]]:
    """Flatten quality.json to (name, text), nested names joined by a dot; long lists and groups are truncated."""
    rows: list[tuple[str, str]] = []
    for key, entry in value.items():
        name = str(key).replace("_", " ")
        if isinstance(entry, dict):
            nested = flatten(entry)
            rows += [(f"{name} · {inner}", text) for inner, text in nested[:MOST_ENTRIES]]
            if len(nested) > MOST_ENTRIES:
                rows.append((f"{name} · …", f"{len(nested) - MOST_ENTRIES} more"))
        elif isinstance(entry, list):
            listed = ", ".join(figure(one) for one in entry[: 2 * MOST_ENTRIES])
            rows.append((name, (listed + " …" if len(entry) > 2 * MOST_ENTRIES else listed) or "none"))
        else:
            rows.append((name, figure(entry)))
    return rows


def stages(paths: Paths) -> list[dict[str, Any]]:
    """Return name, seconds, finishing time and counts of the finished stages, in order of finishing.

    Without the report: there is a state of the one before this only, whose counts are of other samples.
    """
    found = []
    for state in _states(paths):
        if state.get("stage") == STAGE:
            continue
        counts = state.get("counts")
        found.append(
            {
                "name": str(state.get("stage")),
                "seconds": shown(state.get("seconds"), 1),
                "finished": str(state.get("finished", ""))[:19].replace("T", " "),
                "counts": [f"{name}: {text}" for name, text in flatten(counts)] if isinstance(counts, dict) else [],
            }
        )
    return found


def versions(paths: Paths) -> list[tuple[str, str]]:
    """Return the package versions of the latest finished stage."""
    found = [state["versions"] for state in _states(paths) if isinstance(state.get("versions"), dict)]
    latest: dict[str, Any] = found[-1] if found else {}
    return [(str(name), str(version)) for name, version in latest.items()]


def changed_settings(settings: Settings) -> list[tuple[str, str, str]]:
    """List variables that differ from their defaults: (name, value, default)."""
    values = settings.public()
    defaults = Settings().public()
    return [
        (variable.name, figure(values[variable.field.upper()]), figure(defaults[variable.field.upper()]))
        for variable in variables()
        if values[variable.field.upper()] != defaults[variable.field.upper()]
    ]


def _secrets(settings: Settings) -> list[str]:
    """List secrets the page must not contain: settings mask them, but the user's texts or paths may not."""
    try:
        return settings.secrets
    except BadInput:
        return []  # an unreadable HF_TOKEN_FILE; what it holds is unknown to this process


def environment() -> Environment:
    """Create a Jinja environment with escaping: the page contains texts from the data, which are untrusted."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["shown"] = figure
    return environment


def _states(paths: Paths) -> list[dict[str, Any]]:
    states = [state for path in paths.state.glob("*.json") if (state := _json(path))]
    return sorted(states, key=lambda state: str(state.get("finished", "")))


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty for a missing or damaged file, since the report is built from whatever exists."""
    try:
        value = files.read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _points(log: Iterable[dict[str, Any]], field: str) -> list[tuple[float, float]]:
    return [(float(record["step"]), as_float(record[field])) for record in log if field in record]


def figure(value: Any) -> str:
    """Format any value of a JSON file as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict) and value.keys() == {"from", "to", "rows"}:  # a bar of a histogram
        low, high = figure(value["from"]), value["to"]
        return f"{f'from {low}' if high is None else f'{low}–{figure(high)}'}: {value['rows']}"
    return str(value)
