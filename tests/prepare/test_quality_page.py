"""quality.html in a real browser: rows are marked, and what the page saves is what prepare reads."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from job.config.paths import Paths
from job.prepare import page
from job.prepare.edits import Edits

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FIGURES: dict[str, Any] = {
    **dict.fromkeys(("rows", "hours", "augmented_rows", "codebook_size", "duplicate_rows"), 0),
    **dict.fromkeys(("validation_rows_also_in_train",), 0),
    **{name: {} for name in ("splits", "speakers", "voices", "languages", "sample_rates", "channels")},
    **{name: {} for name in ("rejected", "warnings")},
    **{name: [] for name in ("durations", "distinct_codes_per_book", "problems", "ways")},
    **dict.fromkeys(("seconds", "rms_dbfs", "peak_dbfs", "snr_db", "clipped_share", "speech_share", "longest_pause")),
}
#: Marks the first row, corrects the text of the second, saves, and writes what was saved into the page.
CLICKS = """<script>
addEventListener("load", () => {
  const rows = document.querySelectorAll(".row");
  rows[0].querySelector(".mark").click();
  rows[1].querySelector(".edit").click();
  rows[1].querySelector("textarea").value = "Corrected \\u00fc <b>.";
  rows[1].querySelector(".edit").click();
  const made = [];
  window.Blob = class { constructor(parts) { made.push(parts.join("")); } };
  URL.createObjectURL = () => "#";
  document.getElementById("save").click();
  const found = document.createElement("pre");
  found.id = "saved";
  found.textContent = JSON.stringify(made[0]);
  document.body.append(found);
});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_what_is_marked_on_the_page_is_saved_as_edits_that_prepare_reads(tmp_path: Path) -> None:
    about = {"split": "train", "number": 1, "source": "rows.jsonl", "start": None, "end": None, "detail": ""}
    about |= {"why": "", "heard": None}
    rows = [{**about, "id": name, "text": name, "audio": None, "left_out": False} for name in ("one", "two")]
    decided = [{"id": "three", "bad": True}]
    made = page.render(
        FIGURES, [], 0, {"hum": {"count": 2, "rows": rows}}, decided, Paths(tmp_path, tmp_path / "output")
    )
    written = tmp_path / "page.html"
    written.write_text(made.replace("</body>", CLICKS + "</body>"), encoding="utf-8")
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [str(CHROMIUM), *switches, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", written.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    found = re.search(r'<pre id="saved">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None
    saved = json.loads(html.unescape(found[1]))
    assert [json.loads(line) for line in saved.splitlines()] == [
        {"id": "three", "bad": True},
        {"id": "one", "bad": True},
        {"id": "two", "text": "Corrected ü <b>."},
    ]
    edits = tmp_path / "edits.jsonl"
    edits.write_text(saved, encoding="utf-8")
    assert Edits(edits)
