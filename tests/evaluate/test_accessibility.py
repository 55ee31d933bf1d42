"""Anybody can use the pages, on a telephone and at a desk, light and dark: axe-core finds nothing wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from job.config.paths import Paths
from job.evaluate import compare_runs, report
from job.prepare import page
from tests.evaluate.test_report import fill, judged
from tests.prepare.test_quality_page import FIGURES
from tests.support import axe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(axe.CHROMIUM is None, reason="no chromium on this machine"),
    pytest.mark.skipif(axe.script() is None, reason=f"none of {', '.join(axe.PACKAGES)} is installed"),
]
#: Opens the first row's text for editing, as a reader would.
OPEN = '<script>document.querySelector(".edit").click()</script>'


def report_page(directory: Path) -> str:
    settings = fill(directory)
    judged(settings)
    report.run(settings)
    return settings.paths.report.read_text(encoding="utf-8")


def compared_page(directory: Path) -> str:
    settings = fill(directory / "one", learning_rate=3e-5)
    fill(directory / "two")
    return compare_runs.compare(settings, [directory / "one", directory / "two"]).read_text(encoding="utf-8")


def quality_page(directory: Path) -> str:
    about = {
        "split": "train",
        "number": 1,
        "source": "rows.jsonl",
        "start": None,
        "end": None,
        "detail": "",
        "why": "hum",
        "heard": "other words",
    }
    rows = [{**about, "id": name, "text": f"{name} ü", "audio": f"/{name}.wav", "left_out": True} for name in "ab"]
    figures = {
        **FIGURES,
        "problems": ["A problem."],
        "durations": [{"from": 0, "to": 5, "rows": 2}, {"from": 5, "to": None, "rows": 0}],
        "speakers": {"ada": {"rows": 2, "seconds": 3.0}},
        "warnings": {"hum": {"rows": 2, "examples": ["a", "b"]}},
        "rejected": {"hum": 2},
    }
    rejected = [{"split": "train", "row": 1, "reason": "hum", "detail": "strong"}]
    kinds = {"hum": {"count": 2, "rows": rows}}
    made = page.render(figures, rejected, 1, kinds, [], Paths(directory, directory / "output"))
    return made.replace("</body>", OPEN + "</body>")


@pytest.mark.parametrize("made", [report_page, compared_page, quality_page])
def test_nothing_is_found_at_any_width_in_light_or_dark(made, tmp_path: Path) -> None:
    script = axe.script()
    assert script is not None
    found = axe.check(made(tmp_path / "work"), script, tmp_path)
    assert {one["at"] for one in found} == {f"#{theme}-{width}" for theme in ("light", "dark") for width in axe.WIDTHS}
    assert [(one["at"], one["bad"]) for one in found if one["bad"]] == []
    assert all(one["wide"] <= one["width"] and one["checked"] > 10 for one in found), "wider than the screen"


def test_the_check_finds_what_is_wrong(tmp_path: Path) -> None:
    """Grey on white, and a picture that is not described."""
    page = "<html><body><p style='color:#ccc;background:#fff'>Grey</p><img src='data:,'></body></html>"
    found = axe.check(page, str(axe.script()), tmp_path)
    assert all({"color-contrast", "image-alt"} <= {line.split(":")[0] for line in one["bad"]} for one in found)
