"""Every mode, layout and kind of language is spoken as it was trained: the recite table, cell by cell."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "recite_table.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("recite_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode", ["lora", *(pytest.param(other, marks=pytest.mark.thorough) for other in ("full", "layers"))]
)
def test_every_cell_is_recited(benchmark, tmp_path, mode):
    """At least 99 % of the codes over all codebooks and the right stop for every sentence, in (non-streaming,
    streaming) x (Auto, named, new language), two speakers, with and without an instruction."""
    cells = benchmark.table(tmp_path, (mode,))
    assert len(cells) == 6
    for cell in cells:
        assert cell["codes"] >= 0.99, cell
        assert cell["right_stops"] == cell["sentences"], cell
