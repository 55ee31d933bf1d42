"""Make the table in docs/variables.md anew from `job/config/variables.py`: `make variables`."""

from __future__ import annotations

import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP))

from job.config.settings_table import BEGIN, END, markdown  # noqa: E402

page = TOP / "docs/variables.md"
before, _, rest = page.read_text().partition(BEGIN)
page.write_text(f"{before}{BEGIN}\n\n{markdown().rstrip()}\n\n{END}{rest.partition(END)[2]}")
