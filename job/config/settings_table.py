"""The table of variables, as `python -m job settings` prints it and docs/variables.md holds it."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from job.config.settings import variables

#: The page's table stands between these two lines.
BEGIN = "<!-- variables: made by `python -m job settings` -->"
END = "<!-- end of variables -->"


def markdown() -> str:
    """One Markdown table per group of variables."""
    parts = []
    for group, rows in groupby(variables(), key=lambda v: v.group):
        parts.append(f"### {group}\n\n| variable | default | meaning |\n| --- | --- | --- |\n")
        for v in rows:
            also = f" ({', '.join(f'`{a}`' for a in v.aliases)})" if v.aliases else ""
            parts.append(f"| `{v.name}`{also} | {_default(v.default)} | {v.about.replace('|', chr(92) + '|')} |\n")
        parts.append("\n")
    return "".join(parts)


def _default(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"
