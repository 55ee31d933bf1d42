"""quality.html: the figures of quality.json as one self-contained page, with the rows to listen to.

It works from the disk, without a server or a network: what is marked on it is saved as edits.jsonl by the browser.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from job.audio.clip import Unusable, load
from job.config.paths import Paths

#: Rows that were left out, shown on the page; rejected.jsonl has all of them.
SHOWN_REJECTED = 50
#: Recordings are put into the page itself up to this many bytes in all, as MP3 at this rate (Hz); others are linked to.
EMBEDDED, RATE = 6_000_000, 24_000
#: Longer recordings are linked to, seconds.
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
        kinds: what rows were found for -> how many, and the worst of them (`worst.Worst.kinds`).
        decided: the lines of edits.jsonl as it is.
        paths: of the run.
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
    """The recording as the contents of a `src`; None where it cannot be read or is long."""
    import soundfile

    try:
        clip = load(Path(audio), RATE, start=start, end=end, max_seconds=LONGEST)
    except (Unusable, OSError):
        return None
    made = io.BytesIO()
    soundfile.write(made, clip.samples, RATE, format="MP3", subtype="MPEG_LAYER_III")
    return "data:audio/mpeg;base64," + base64.b64encode(made.getvalue()).decode("ascii")


def _link(row: dict[str, Any], here: Path) -> str:
    """A link to the file, relative to the page, to the row's part of it."""
    from urllib.parse import quote

    part = f"#t={row['start']:g},{row['end']:g}" if row["start"] is not None and row["end"] is not None else ""
    return quote(os.fsencode(os.path.relpath(row["audio"], here))) + part
