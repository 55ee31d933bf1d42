"""Render quality.html: the figures of quality.json as one self-contained page, with the rows to listen to.

It works when opened from disk, without a server or a network: the browser saves what is marked on it as edits.jsonl.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from job.audio import mp3
from job.audio.clip import Unusable, load
from job.config.paths import Paths
from job.core import inside

#: Most rejected rows shown on the page; rejected.jsonl has all of them.
SHOWN_REJECTED = 50
#: Total bytes of recordings embedded in the page, as MP3 at this sample rate (Hz); all others are linked.
EMBEDDED, RATE = 6_000_000, 24_000
#: Recordings longer than this, in seconds, are always linked.
LONGEST = 20.0


def render(
    figures: dict[str, Any],
    rejected: Sequence[dict[str, Any]],
    more: int,
    kinds: dict[str, dict[str, Any]],
    decided: Sequence[dict[str, Any]],
    paths: Paths,
) -> str:
    """Render the page as HTML. Everything from the data is escaped; nothing is loaded from elsewhere.

    Args:
        figures: the contents of quality.json.
        rejected: the first of `more` rejected rows.
        more: total number of rejected rows.
        kinds: reason or warning -> number of rows, and the worst of them (`worst.Worst.kinds`).
        decided: the current lines of edits.jsonl.
        paths: paths of the run.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(Path(__file__).with_name("quality.html.j2").read_text(encoding="utf-8"))
    tallest = max((bin_["rows"] for bin_ in figures["durations"]), default=0) or 1
    left = EMBEDDED
    players: dict[tuple[Any, ...], str] = {}
    for kind in kinds.values():
        for row in kind["rows"]:
            key = (row["audio"], row["start"], row["end"])
            if row["audio"] and key not in players:
                sound = _embedded(*key) if left > 0 else None
                left -= len(sound or "")
                players[key] = sound or _link(row, paths.quality_page.parent)
            row["player"] = players.get(key, "")
            row["embedded"] = row["player"].startswith("data:")
    return (
        template.render(
            f=figures, rejected=rejected[:SHOWN_REJECTED], more=more, tallest=tallest, kinds=kinds, decided=decided
        )
        + "\n"
    )


@lru_cache(maxsize=512)
def _embedded(audio: str, start: float | None, end: float | None) -> str | None:
    """Encode a recording as a data URL; None if it cannot be read or is too long."""
    try:
        clip = load(Path(audio), RATE, start=start, end=end, max_seconds=LONGEST)
    except (Unusable, OSError):
        return None
    return mp3.data_address(clip.samples, RATE)


def _link(row: dict[str, Any], here: Path) -> str:
    """Relative link from the page to the row's part of its file; none to what lies in a larger file."""
    from urllib.parse import quote

    if inside.place_of(Path(row["audio"])) is not None:
        return ""
    part = f"#t={row['start']:g},{row['end']:g}" if row["start"] is not None and row["end"] is not None else ""
    return quote(os.fsencode(os.path.relpath(row["audio"], here))) + part
