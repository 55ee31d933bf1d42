"""`make demo` as a stranger runs it: it recites, and ends with what a recogniser hears before and after training."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_demo_ends_with_words_that_the_base_cannot_say_and_the_voice_can(tmp_path: Path) -> None:
    """The untrained base is heard to say nothing right, the trained voice its sentences; the report says the same."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_CACHE_HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "job", "demo"],
        env={**kept, "WORK_DIR": str(tmp_path / "w"), "CONSOLE_LOG": str(tmp_path / "log.txt"), "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-20:]
    (said,) = [line for line in last if "the base before training: word errors" in line]
    base, voice = map(int, re.findall(r"word errors (\d+) %", said))
    assert base >= 80 and voice <= 20, said
    (report,) = [line.split()[-1] for line in last if line.startswith("[demo] report")]
    assert any(line.startswith("Guten Tag.") and line.endswith("guten tag") for line in last), last

    stats = json.loads((tmp_path / "w" / "samples" / "stats.json").read_text())
    (row,) = [row for row in stats["comparison"] if row["figure"] == "wer"]
    assert (round(100 * row["base"]), round(100 * row["voice"])) == (base, voice)
    assert row["against_base"] == "better" and "errors of words" in stats["summary"]["verdict"]
    assert "Word error rate" in Path(report).read_text(encoding="utf-8")
