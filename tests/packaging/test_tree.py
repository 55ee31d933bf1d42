"""The tree is one that a newcomer can enter: small files, each with a name of its own, each saying what it is."""

import ast
import subprocess
from collections import Counter
from pathlib import Path

import pytest

JOB = Path(__file__).resolve().parents[2] / "job"
MODULES = sorted(JOB.rglob("*.py"))


def test_no_two_modules_have_one_name() -> None:
    names = Counter(path.stem for path in MODULES if path.name not in ("__init__.py", "__main__.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_module_is_longer_than_300_lines() -> None:
    lengths = {str(path.relative_to(JOB)): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(JOB)))
def test_a_module_says_in_its_first_line_what_it_is(path: Path) -> None:
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
    assert first.endswith((".", "!", "?", ":")) and len(first.split()) >= 4, first


def test_no_committed_link_leads_out_of_the_repository() -> None:
    """Whoever clones it has no such file there; a link to a directory of this machine once replaced an environment."""
    top = JOB.parent
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=top, capture_output=True, text=True, check=True).stdout
    links = [top / line.split("\t", 1)[1] for line in listed.splitlines() if line.startswith("120000 ")]
    assert [str(link) for link in links if not link.resolve().is_relative_to(top.resolve())] == []
