"""axe-core, the checker of web pages for people who cannot see or use a mouse, in a headless Chromium."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: Packages that bring axe.min.js, the newest one first.
PACKAGES = ("axe_playwright_python", "axe_core_python")
#: Widths of a telephone, a tablet and a desk, CSS pixels.
WIDTHS = (360, 768, 1280)
_RUN = """<script>axe.run().then(found => parent.postMessage({at: location.hash, width: innerWidth,
  wide: document.documentElement.scrollWidth, checked: found.passes.length,
  bad: found.violations.map(one => one.id + ": " + one.nodes.slice(0, 3).map(node => node.html.slice(0, 120) + " "
    + node.failureSummary).join(" | "))}, "*"))</script>"""
_COLLECT = """<script>const found = [];
addEventListener("message", message => { found.push(message.data);
  if (found.length == COUNT) { const made = document.createElement("pre"); made.id = "found";
    made.textContent = JSON.stringify(found); document.body.replaceChildren(made); } });</script>"""


def script() -> str | None:
    """The text of axe.min.js; None where no package has it."""
    for package in PACKAGES:
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            if (Path(place) / "axe.min.js").is_file():
                return (Path(place) / "axe.min.js").read_text(encoding="utf-8")
    return None


def check(page: str, axe: str, directory: Path) -> list[dict[str, Any]]:
    """What axe finds on a page at each width, light and dark: `at`, `width`, `wide`, `checked`, and `bad` in words.

    The page's policy against scripts is left out, as axe is one; all six are frames of one page, so one browser does.
    """
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    frames = []
    for theme in ("light", "dark"):
        dressed = page.replace("(prefers-color-scheme: dark)", "all" if theme == "dark" else "not all")
        file = directory / f"{theme}.html"
        file.write_text(dressed.replace("</body>", f"<script>{axe}</script>{_RUN}</body>"), encoding="utf-8")
        frames += [
            f'<iframe src="{file.name}#{theme}-{width}" style="width:{width}px;height:900px;border:0"></iframe>'
            for width in WIDTHS
        ]
    whole = directory / "frames.html"
    collect = _COLLECT.replace("COUNT", str(len(frames)))
    whole.write_text(f"<!doctype html><body>{collect}{''.join(frames)}</body>", encoding="utf-8")
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    switches += [f"--user-data-dir={directory / 'profile'}", "--window-size=1400,1000", "--virtual-time-budget=60000"]
    done = subprocess.run(
        [str(CHROMIUM), *switches, "--dump-dom", whole.as_uri()], capture_output=True, text=True, timeout=300
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:] + done.stdout[-2000:]
    told: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    return told
