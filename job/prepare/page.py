"""quality.html: the figures of quality.json as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Rows that were left out, shown on the page; rejected.jsonl has all of them.
SHOWN_REJECTED = 50


def render(figures: dict[str, Any], rejected: Sequence[dict[str, Any]], more: int) -> str:
    """Render the page as HTML. Everything from the data is escaped; nothing is loaded from elsewhere.

    `rejected` are the first of `more` rejected rows.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(Path(__file__).with_name("quality.html.j2").read_text(encoding="utf-8"))
    tallest = max((bin_["rows"] for bin_ in figures["durations"]), default=0) or 1
    return template.render(f=figures, rejected=rejected[:SHOWN_REJECTED], more=more, tallest=tallest) + "\n"
